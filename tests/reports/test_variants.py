"""Several runs together: a colour for each agent, a panel for each condition, seeds joined."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from agentic_transformer.config import TableCommand
from agentic_transformer.evaluation.statistics import interval, summarize
from agentic_transformer.run_files import write_json
from experiments import table
from experiments.cli.folders import runs_to_show, runs_within
from experiments.cli.run_folder import read_overrides, write_overrides
from experiments.cli.run_status import STATUS
from experiments.reports.learning_curve_figure import learning_curves
from experiments.reports.presentation import present
from experiments.reports.return_figures import return_vs_context
from experiments.reports.variants_figure import variants
from experiments.reports.variants_table import (
    in_cells,
    returns_by_setting,
    save_tables,
    variants_table,
)
from tests.evaluation.test_statistics import make_records
from tests.reports.test_presentation import RETURNS, make_run

WIDER = "agent: {name: at}\nmodel: {width: 128}\nseed: 0\n"


@pytest.fixture
def sweep(tmp_path):
    """Two widths, two seeds, two conditions, and a baseline; widths differ by ten in return."""
    runs = []
    for number, (width, seed) in enumerate([(64, 0), (64, 1), (128, 0), (128, 1)]):
        returns = np.array(RETURNS) + seed + (10 if width == 128 else 0)
        table = pd.concat(
            [
                make_records(returns, seed=seed),
                make_records(returns - 1, "no_context", seed=seed),
            ]
        )
        config = f"agent: {{name: at}}\nmodel: {{width: {width}}}\nseed: {seed}\n"
        runs.append(make_run(tmp_path / f"{number}", table, config))
    baseline = "agent: {name: dt}\nseed: 0\n"
    runs.append(make_run(tmp_path / "4", make_records(RETURNS, "dt", agent="dt"), baseline))
    return runs


def test_an_agent_has_one_colour_and_a_condition_one_panel(tmp_path, drawn):
    agents = ["at a", "at b", "at c"]
    parts = [
        make_records(RETURNS, condition, agent=agent)
        for agent in agents
        for condition in ("own", "no_context", "foreign")
    ]
    parts.append(make_records(RETURNS, "dt", agent="dt"))
    variants(summarize(pd.concat(parts)), tmp_path / "figure.png")
    (figure,) = drawn
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert len(panels) == 3
    colours = [
        {
            line.get_label(): to_hex(line.get_color())
            for line in axis.lines
            if len(line.get_xdata()) > 2
        }
        for axis in panels
    ]
    assert colours[0] == colours[1] == colours[2]
    assert len(set(colours[0].values())) == len(agents) + 1
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(entries) == sorted(colours[0])


def test_learners_of_users_modules_are_told_apart_by_their_agents(tmp_path, drawn):
    """They have one condition: in a panel of several agents, and beside a single one."""
    agents = {"mine": "learner", "yours": "learner", "informed": "learner_told", "td3": "td3"}
    parts = [make_records(RETURNS, kind, agent=agent) for agent, kind in agents.items()]
    parts += [make_records(RETURNS, agent=agent) for agent in ("at a", "at b")]
    variants(summarize(pd.concat(parts)), tmp_path / "figure.png")
    return_vs_context(summarize(pd.concat(parts[:-1])), tmp_path / "one.png")
    for figure in drawn:
        looks = {
            line.get_label(): (to_hex(line.get_color()), line.get_marker(), line.get_linestyle())
            for line in figure.axes[0].lines
            if len(line.get_xdata()) > 2
        }
        assert {"external learner: mine", "external learner: yours"} < looks.keys()
        assert len(set(looks.values())) == len(looks)


@pytest.mark.slow
def test_conditions_and_formats_are_chosen(sweep, tmp_path, drawn):
    out = tmp_path / "out"
    present(sweep, out, conditions=["own"], formats=["pdf", "svg"])
    assert set(pd.read_csv(out / "summary.csv")["condition"]) == {"own"}
    assert set(pd.read_csv(out / "records.csv")["condition"]) == {"own", "no_context", "dt"}
    assert (out / "return_vs_context.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (out / "return_vs_context.svg").read_text()
    assert not list(out.glob("*.png"))
    present(sweep, out)
    assert list(out.glob("*.png")) and not list(out.glob("*.pdf")) + list(out.glob("*.svg"))
    with pytest.raises(ValueError, match=r"conditions=\[foreign\].*there are own, no_context, dt"):
        present(sweep, out, conditions=["foreign"])


def test_seeds_are_joined_with_their_intervals(sweep, tmp_path):
    table = variants_table(sweep)
    assert len(table) == 2 * 2 + 1
    wide = table[(table["agent"] == "at model.width=128") & (table["condition"] == "own")].iloc[0]
    last = [row[-1] + 10 + seed for seed in (0, 1) for row in RETURNS]
    expected = interval(pd.Series(last), pd.Series([0, 0, 1, 1]))
    assert (wide["seeds"], wide["units"], wide["trajectories"]) == (2, 4, 3)
    assert tuple(wide[["mean", "low", "high"]]) == expected
    assert wide["mean"] == np.mean(last)


def test_agents_of_quickstarts_have_the_settings_of_their_quickstart(tmp_path, capsys):
    """Of a sweep over steps with one seed, whose records were joined in each job's folder."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    write_overrides(sweep, [])
    for number, steps in enumerate((300, 4000)):
        config = f"agent: {{name: at}}\ntrain: {{steps: {steps}}}\nseed: 0\n"
        agents = [("at", "own", config), ("dt", "dt", config.replace("at", "dt", 1))]
        records = [make_records(np.add(RETURNS, number), kind, agent) for agent, kind, _ in agents]
        job = make_run(sweep / f"{number}", pd.concat(records), config)
        write_json(job / "status.json", {"state": "finished", "command": "quickstart"})
        write_overrides(job, [f"train.steps={steps}"])
        for one, (agent, _, config) in zip(records, agents, strict=True):
            write_json(make_run(job / agent, one, config) / "status.json", {"command": "train"})
    runs, _ = runs_to_show([str(sweep / "0"), str(sweep / "1")])
    present(runs, tmp_path / "out", conditions=["own"])
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").query("trajectories == 3")
    assert dict(zip(summary["agent"], summary["mean"], strict=True)) == {
        "at train.steps=300": 3.5,
        "at train.steps=4000": 4.5,
    }
    assert runs_within(sweep) == runs
    table.main(TableCommand(sweep=str(sweep)))
    said = capsys.readouterr()
    assert "at train.steps=4000" in said.out and said.err == ""
    assert {"at return own n=3", "dt return dt n=3"} < set(pd.read_csv(sweep / "table.csv"))
    agents = pd.read_csv(sweep / "variants.csv")["agent"]
    assert set(agents) == {f"{one} train.steps={n}" for one in ("at", "dt") for n in (300, 4000)}


@pytest.fixture
def of_rates(tmp_path):
    """A sweep of three learning rates and two heads with two seeds each."""
    jobs = [
        (r, head, seed) for r in (0.01, 1e-3, 0.1) for head in ("mse", "mixture") for seed in (0, 1)
    ]
    (tmp_path / "sweep").mkdir()
    for number, (rate, head, seed) in enumerate(jobs):
        returns = np.array(RETURNS) + 1000 * rate + (head == "mse") + seed
        job = tmp_path / "sweep" / str(number)
        model = f"{{learning_rate: {rate}}}\nmodel: {{head: {head}}}"
        make_run(job, make_records(returns, seed=seed), f"agent: {{name: at}}\ntrain: {model}\n")
        words = [f"train.learning_rate={rate}", f"model.head={head}", f"seed={seed}"]
        write_overrides(job, words)
        write_json(job / STATUS, {"state": "finished"})
    write_overrides(tmp_path / "sweep", [])
    return tmp_path / "sweep"


def test_a_sweep_over_a_number_is_drawn_against_it(of_rates, drawn, capsys):
    (of_rates / "3" / "records.csv").unlink()  # a job that is not evaluated yet
    table.main(TableCommand(sweep=str(of_rates)))
    assert capsys.readouterr().out.endswith(f"{of_rates / 'return_vs_setting.png'}\n")
    assert (of_rates / "return_vs_setting.png").exists()
    (figure,) = drawn
    (axis,) = figure.axes
    assert axis.get_xlabel() == "train.learning_rate" and axis.get_xscale() == "log"
    curves = {line.get_label().split(":")[0]: line for line in axis.lines}
    assert list(curves) == ["at model.head=mse", "at model.head=mixture"]
    last = np.mean(RETURNS, axis=0)[-1] + np.array([1.0, 10.0, 100.0])
    for name, more in (("mse", [1.5, 1.5, 1.5]), ("mixture", [0.5, 0.0, 0.5])):
        curve = curves[f"at model.head={name}"]
        np.testing.assert_allclose(curve.get_xdata(), [1e-3, 0.01, 0.1])
        np.testing.assert_allclose(curve.get_ydata(), last + more)


def test_a_missing_job_leaves_the_others_their_curves(of_rates):
    """At two rates, one head alone was evaluated: it is the same agent as at the others."""
    for job in ("2", "3", "4", "5"):
        (of_rates / job / "records.csv").unlink()
    setting, table = returns_by_setting(of_rates)
    assert setting == "train.learning_rate"
    points = {agent: list(rows["value"]) for agent, rows in table.groupby("agent")}
    assert points == {
        "at model.head=mse": [0.01, 0.1],
        "at model.head=mixture": [1e-3, 0.1],
    }


def test_a_sweep_without_the_usual_conditions_is_drawn_with_those_it_has(of_rates, drawn):
    for path in of_rates.glob("*/records.csv"):
        pd.read_csv(path).assign(condition="dataset").to_csv(path, index=False)
    table.main(TableCommand(sweep=str(of_rates)))
    (figure,) = drawn
    assert len(figure.axes[0].lines) == 2  # the two heads


def test_a_sweep_over_names_alone_has_no_such_figure(of_rates):
    for job in of_rates.glob("*/overrides.yaml"):
        write_overrides(job.parent, read_overrides(job.parent)[1:])
    assert returns_by_setting(of_rates) is None


def test_a_name_of_numbers_and_points_is_no_number(of_rates):
    for job in of_rates.glob("*/overrides.yaml"):
        words = read_overrides(job.parent)
        write_overrides(job.parent, [*words, f"agent.name=1.0.{job.parent.name}", "data.root=."])
    assert returns_by_setting(of_rates)[0] == "train.learning_rate"


def test_the_same_table_is_written_in_every_format(sweep, tmp_path):
    cells = in_cells(variants_table(sweep))
    paths = save_tables(variants_table(sweep), tmp_path / "variants")
    assert [path.name for path in paths] == ["variants.csv", "variants.md", "variants.tex"]
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), variants_table(sweep))
    rows = list(csv.reader(io.StringIO(paths[1].read_text()), delimiter="|"))
    shown = [[cell.strip() for cell in row[1:-1]] for row in rows]
    assert shown[0] == list(cells.columns) and shown[2:] == cells.astype(str).to_numpy().tolist()
    body = re.findall(r"^(.*) \\\\$", paths[2].read_text(), re.M)
    plain = [[cell.replace("\\_", "_") for cell in row.split(" & ")] for row in body]
    assert plain == [list(cells.columns), *cells.astype(str).to_numpy().tolist()]


def test_a_run_of_an_earlier_version_is_of_the_same_agent(tmp_path):
    """Its settings have earlier names, and it lacks those that are newer."""
    configs = ("agent: {name: at, good: 0.6}", "agent: {name: at, selection_threshold: 0.6}")
    runs = [
        make_run(
            tmp_path / f"{seed}", make_records(RETURNS, seed=seed), f"{config}\nseed: {seed}\n"
        )
        for seed, config in enumerate((*configs, "agent: {name: at, loss: good}"))
    ]
    assert variants_table(runs)[["agent", "seeds"]].to_numpy().tolist() == [["at", 3]]


def test_a_cache_of_its_own_makes_no_other_agent_of_a_seed(tmp_path):
    runs = [
        make_run(
            tmp_path / f"{seed}",
            make_records(RETURNS, seed=seed),
            f"agent: {{name: at}}\ndata: {{cache: /scratch/{seed}}}\nseed: {seed}\n",
        )
        for seed in (0, 1)
    ]
    assert variants_table(runs)[["agent", "seeds"]].to_numpy().tolist() == [["at", 2]]


@pytest.mark.parametrize("there", [True, False])
def test_seeds_that_start_from_seeds_of_one_pretrained_agent_are_one(there, tmp_path):
    """Two start from one agent with its seeds, one from a wider one; or who knows from what."""
    runs = []
    for seed, width in enumerate((64, 64, 128)):
        start = tmp_path / f"start{seed}"
        if there:
            config = f"agent: {{name: at}}\nmodel: {{width: {width}}}\nseed: {seed}\nrun: {start}\n"
            make_run(start, make_records(RETURNS), config)
        config = f"agent: {{name: at}}\ninit: {start}\nseed: {seed}\n"
        runs.append(make_run(tmp_path / f"{seed}", make_records(RETURNS, seed=seed), config))
    found = [tuple(row) for row in variants_table(runs)[["agent", "seeds"]].to_numpy()]
    starts = [f"at init={tmp_path}/start{seed}" for seed in range(3)]
    one_by_one = [(name, 1) for name in starts]
    assert found == ([(starts[0], 2), (starts[2], 1)] if there else one_by_one)


def test_seeds_on_the_same_episodes_in_several_places_are_one(tmp_path):
    """By the digest of the episodes; other episodes, and runs without a digest, are told apart."""
    runs = []
    for seed, (place, digest) in enumerate((("a", "1"), ("b", "1"), ("c", "2"), ("d", None))):
        config = f"agent: {{name: at}}\ndata: {{root: {place}}}\nseed: {seed}\n"
        run = make_run(tmp_path / f"{seed}", make_records(RETURNS, seed=seed), config)
        write_json(run / "provenance.json", {"episodes_digest": digest} if digest else {})
        runs.append(run)
    found = [tuple(row) for row in variants_table(runs)[["agent", "seeds"]].to_numpy()]
    assert found == [("at data.root=a", 2), ("at data.root=c", 1), ("at data.root=d", 1)]
    (runs[3] / "config.yaml").write_text("agent: {name: at}\ndata: {root: b}\nseed: 3\n")
    found = [tuple(row) for row in variants_table(runs)[["agent", "seeds"]].to_numpy()]
    assert found == [("at data.root=a", 3), ("at data.root=c", 1)]


def test_records_without_settings_keep_their_name(sweep, tmp_path):
    """As those that another laboratory sends."""
    alone = make_run(tmp_path / "alone", make_records(RETURNS, seed=2))
    (alone / "config.yaml").unlink()
    narrow = sweep[:2]  # two seeds of one width
    both = variants_table([alone, *narrow]).query("condition == 'own'")
    assert both[["agent", "seeds"]].to_numpy().tolist() == [["at", 3]]
    apart = variants_table([alone, *sweep[:4]]).query("condition == 'own'")
    assert list(apart["agent"]) == ["at", "at model.width=64", "at model.width=128"]


def test_records_that_cannot_be_read_are_left_out(sweep, tmp_path):
    (sweep[0] / "records.csv").write_text("a,b\n1,2\n")
    (sweep[1] / "records.csv").unlink()
    assert set(variants_table(sweep)["agent"]) == {"at", "dt"}
    assert variants_table([tmp_path]).empty


@pytest.mark.parametrize(("with_enough", "panels_of_goals"), [([2, 3], 4), ([2], 3)])
def test_a_task_shows_the_panels_that_it_has_contexts_for(
    with_enough, panels_of_goals, tmp_path, drawn
):
    """Of two tasks one has goals; only enough contexts with an earlier miss make a point."""
    contexts = 24
    records = make_records(np.tile([1.0, 6.0, 8.0, 8.0], (contexts, 1)))
    records = records.sort_values(["task_id", "trajectories"], kind="stable")
    missed = np.tile([np.nan, 0.5, 0.5, 0.5], contexts)
    for attempt in {2, 3, 4} - set(with_enough):
        missed[attempt - 1 :: 4][:10] = np.nan  # 14 contexts are left
    goals = records.assign(best_return=10.0, repeat_miss_rate=missed)
    summary = summarize(pd.concat([goals, records.assign(task="walker_walk")]))
    return_vs_context(summary, tmp_path / "figure.png")
    (figure,) = drawn
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_visible()}
    titles = [title for title in panels if title]
    assert len([title for title in titles if title.startswith("walker_walk")]) == 2
    assert len(titles) == 2 + panels_of_goals
    rates = [panels[title] for title in titles if "repeat miss rate" in title]
    # A curve has more than one point.
    assert [list(axis.lines[0].get_xdata()) for axis in rates] == [with_enough][: len(rates)]
    assert len(rates) == (len(with_enough) > 1)


def test_a_curve_while_training_has_its_band_in_its_own_colour(tmp_path, drawn):
    log = pd.DataFrame(
        {"step": [0, 1] * 2, "trajectories": [1, 1, 8, 8], "return": 1.0, "low": 0.0, "high": 2.0}
    )
    learning_curves([("a", "task", log), ("b", "task", log)], tmp_path / "figure.png")
    (axis,) = drawn[0].axes
    lines = [to_hex(line.get_color()) for line in axis.lines]
    bands = [to_hex(band.get_facecolor()[0]) for band in axis.collections]
    assert lines == bands and len(set(lines)) == 4


def test_the_mean_of_seeds_that_were_measured_at_other_steps_is_that_of_their_lines(
    tmp_path, drawn
):
    """One rises from 0 to 4, the other stays at 10 and was stopped before."""
    logs = [
        pd.DataFrame({"step": steps, "trajectories": 8, "return": level, "low": 0.0, "high": 9.0})
        for steps, level in (([0, 1, 2, 3, 4], [0.0, 1, 2, 3, 4]), ([0, 3], 10.0))
    ]
    learning_curves([("a", "task", log) for log in logs], tmp_path / "figure.png")
    (mean,) = [line for line in drawn[0].axes[0].lines if line.get_label().startswith("a:")]
    assert mean.get_xydata().tolist() == [[0, 5], [1, 5.5], [2, 6], [3, 6.5]]


def test_a_window_keeps_contexts_within_the_training_length(tmp_path, drawn):
    """Records of `eval.window=2`: from the second attempt on, the context holds one trajectory."""
    table = make_records([[1.0, 2.0, 3.0, 4.0]])
    short = table.assign(context_steps=table["context_steps"].clip(upper=12))
    for records in (table, short):
        return_vs_context(summarize(records), tmp_path / "figure.png")
    said = [[text.get_text() for axis in figure.axes for text in axis.texts] for figure in drawn]
    assert "beyond the training length " in said[0] and said[1] == []
    above = [
        [label.get_text() for label in axis.get_xticklabels()]
        for figure in drawn
        for axis in figure.axes
        if axis.get_xlabel() == "steps in the context"
    ]
    assert above == [["0", "12", "36"], ["0", "12", "12"]]


def test_agents_of_several_training_lengths_have_each_their_hollow_points(tmp_path, drawn):
    """Those of attempts that follow more than the agent's context held in training."""
    parts = [
        make_records([[1.0, 2.0, 3.0, level]], agent=agent).assign(trained_trajectories=length)
        for agent, length, level in (("at a", 1, 5.0), ("at b", 3, 6.0), ("at c", 4, 7.0))
    ]
    variants(summarize(pd.concat(parts)), tmp_path / "figure.png")
    (axis,) = drawn[0].axes
    hollow = [line for line in axis.lines if to_hex(line.get_color()) == "#ffffff"]
    points = [line.get_xydata().tolist() for line in hollow if len(line.get_xdata())]
    assert points == [[[2, 2], [3, 3], [4, 5]], [[4, 6]]]
    assert drawn[0].get_suptitle().endswith("hollow: beyond the training length")


def test_baselines_of_one_kind_are_told_apart(tmp_path, drawn):
    runs = [make_run(tmp_path / "own", make_records(RETURNS))]
    for width in (64, 128):
        config = f"agent: {{name: dt}}\nmodel: {{width: {width}}}\nseed: 0\n"
        runs.append(make_run(tmp_path / f"{width}", make_records(RETURNS, "dt", "dt"), config))
    present(runs, tmp_path / "both")
    (labels,) = [
        [text.get_text() for text in figure.legends[0].get_texts()]
        for figure in drawn
        if any(axis.get_xlabel() == "n, the n-th attempt" for axis in figure.axes)
    ]
    for width in (64, 128):
        assert f"Decision Transformer: dt model.width={width}" in labels


@pytest.mark.parametrize("draw", [return_vs_context, variants])
def test_a_marker_is_of_one_baseline_on_every_task(draw, tmp_path, drawn):
    """The narrowest was trained on one of the tasks alone; the legend shows each marker once."""
    tasks = {"t": (32, 64, 128), "u": (64, 128)}
    parts = [
        make_records(RETURNS, "dt", f"dt model.width={width}").assign(task=task)
        for task, widths in tasks.items()
        for width in widths
    ]
    agents = ("at a", "at b") if draw is variants else ("at",)
    parts += [
        make_records(RETURNS, agent=name).assign(task=task) for name in agents for task in tasks
    ]
    draw(summarize(pd.concat(parts)), tmp_path / "figure.png")
    markers = {
        (line.get_label(), line.get_marker())
        for axis in drawn[0].axes
        for line in axis.lines
        if "dt model" in line.get_label()
    }
    assert len(markers) == len(dict(markers)) == len({marker for _, marker in markers}) == 3
