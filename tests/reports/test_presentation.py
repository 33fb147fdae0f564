"""Tables and figures from records alone."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from agentic_transformer.config import RECORD_CONDITIONS, PlotCommand, ReportCommand
from agentic_transformer.errors import UserError
from agentic_transformer.evaluation.statistics import compare, summarize
from agentic_transformer.run_files import write_json
from experiments import plot, report
from experiments.cli.folders import runs_within
from experiments.cli.overrides import values_by_key
from experiments.cli.run_folder import write_overrides
from experiments.reports import figures
from experiments.reports.condition_looks import NAMES
from experiments.reports.paper import beside_paper
from experiments.reports.presentation import present
from experiments.reports.pyplot import plt
from experiments.reports.return_table import last_comparisons, reported, table_text
from experiments.reports.sweep_table import sweep_table
from tests.evaluation.test_statistics import make_records
from tests.test_architecture import ROOT

RETURNS = [[1.0, 3.0, 2.0], [2.0, 0.0, 5.0]]


def make_run(folder, table, config="agent: {name: at}\nmodel: {width: 64}\nseed: 0\n"):
    folder.mkdir()
    table.to_csv(folder / "records.csv", index=False)
    (folder / "config.yaml").write_text(config)
    return folder


def test_plotting_imports_neither_a_model_nor_an_environment(tmp_path):
    run = make_run(tmp_path / "run", make_records(RETURNS))
    script = (
        "import sys; from pathlib import Path; "
        "from experiments.reports.presentation import present; "
        f"present([Path({str(run)!r})], Path({str(run)!r})); "
        "slow = ('jax', 'mujoco', 'dm_control', 'gymnasium', 'envs'); "
        "sys.exit(any(name in sys.modules for name in slow))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert (run / "return_vs_context.png").stat().st_size > 10_000


def test_every_figure_there_is_something_for_is_drawn(tmp_path):
    runs = [make_run(tmp_path / f"{seed}", make_records(RETURNS, seed=seed)) for seed in (0, 1)]
    present(runs, tmp_path / "without")
    figures = {"return_vs_context.png", "return_vs_tokens.png"}
    assert {path.name for path in (tmp_path / "without").glob("*.png")} == figures
    log = pd.DataFrame(
        {
            "step": [1, 2],
            "loss": [2.0, 1.0],
            "first_step_loss": [3.0, 2.5],
            "first_step_loss_1": [3.0, 2.9],
        }
    )
    log.to_csv(runs[0] / "metrics.csv", index=False)
    present(runs, tmp_path / "with")
    assert {path.name for path in (tmp_path / "with").glob("*.png")} == figures | {"training.png"}


def test_what_a_context_is_worth_is_drawn_where_records_tell_it(tmp_path):
    tables = [
        make_records(RETURNS).assign(window=window, trained_trajectories=window, action_entropy=1.0)
        for window in (1, 2)
    ]
    hidden = make_records(RETURNS, "retrieval").assign(distance=1, window=2, trained_trajectories=2)
    poor = make_records(RETURNS, "distractors").assign(window=2, trained_trajectories=2)
    tables[1] = pd.concat([tables[1], hidden, poor])
    runs = [
        make_run(
            tmp_path / f"{window}",
            table,
            f"agent: {{name: at, trajectories: {window}}}\neval: {{window: {window}}}\n",
        )
        for window, table in zip((1, 2), tables, strict=True)
    ]
    present(runs, tmp_path / "out")
    drawn = {"return_vs_window.png", "retrieval.png", "entropy.png"}
    assert drawn <= {path.name for path in (tmp_path / "out").iterdir()}
    assert pd.read_csv(tmp_path / "out" / "windows.csv")["window"].unique().tolist() == [1, 2]
    assert pd.read_csv(tmp_path / "out" / "retrieval.csv")["units"].unique().tolist() == [2]


def test_both_protocols_stand_beside_what_the_paper_reports():
    ours = [
        make_records(RETURNS),
        make_records(RETURNS, agent="at model.attention=ring"),
        make_records(RETURNS, "dt", agent="dt"),
    ]
    elsewhere = make_records(RETURNS)
    table = beside_paper(
        summarize(
            pd.concat([elsewhere, *(records.assign(task="walker_stand") for records in ours)])
        )
    )
    assert set(table["task"]) == {"walker_stand"}
    assert set(table["trajectories"]) == {3} and set(table["episode_steps"]) == {12}
    assert set(table["last"]) == {3.5}
    assert set(table["best_of_n"]) == {4.0}
    assert table.set_index("agent")["reported"].dropna().to_dict() == {
        "at model.attention=ring": 98.23,
        "dt": 34.54,
    }


def test_agents_of_a_sweep_are_told_apart_by_what_differs(tmp_path, capsys):
    other = "agent: {name: at}\nmodel: {width: 128}\nseed: 0\n"
    runs = [
        make_run(tmp_path / "a", make_records(RETURNS)),
        make_run(tmp_path / "b", make_records(RETURNS), other),
    ]
    present(runs, tmp_path / "out")
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["agent"]) == {
        "at model.width=64",
        "at model.width=128",
    }
    assert "at model.width=128: own trajectories in context" in capsys.readouterr().out
    assert (tmp_path / "out" / "agents.png").exists()


def test_agents_that_acted_otherwise_are_not_averaged(tmp_path):
    """One was evaluated by a command of its own, at another temperature and checkpoint.

    The number of tasks makes no difference.
    """
    config = (
        "agent: {name: at}\nseed: 0\n"
        "eval: {temperature: 1.0, noise: 1.0, target: 0.95, tasks: 64}\n"
    )
    runs = [
        make_run(tmp_path / name, make_records(RETURNS, seed=seed), config)
        for seed, name in enumerate("abc")
    ]
    (runs[1] / "evaluate").mkdir()
    evaluated = config.replace("temperature: 1.0", "temperature: 0.1").replace(
        "tasks: 64", "tasks: 8"
    )
    (runs[1] / "evaluate" / "config.yaml").write_text(f"{evaluated}checkpoint: best\n")
    present(runs, tmp_path / "out")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert dict(zip(summary["agent"], summary["seeds"], strict=True)) == {
        "at checkpoint=newest eval.temperature=1.0": 2,
        "at checkpoint=best eval.temperature=0.1": 1,
    }


def test_one_agent_on_two_tasks_keeps_its_name(tmp_path):
    runs = [
        make_run(
            tmp_path / task,
            make_records(RETURNS).assign(task=task),
            f"agent: {{name: at}}\ntask: {task}\nseed: 0\n",
        )
        for task in ("a", "b")
    ]
    present(runs, tmp_path / "out")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert set(summary["agent"]) == {"at"}
    assert set(summary["task"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("runs/mien", r"runs/mien: no such folder\n.*\n  nearest: \S*runs/mine$"),
        ("elsewhere", r"elsewhere: no such folder\n  allowed: [^\n]*$"),
        ("runs", r"runs: no run is there\n.*\n  nearest: \S*runs/mine$"),
    ],
)
def test_a_folder_without_a_run_is_answered_by_one_that_may_be_meant(asked, says, tmp_path):
    """To evaluate it first would fail."""
    (tmp_path / "runs").mkdir()
    make_run(tmp_path / "runs" / "mine", make_records(RETURNS))
    for command, main in ((PlotCommand, plot.main), (ReportCommand, report.main)):
        with pytest.raises(UserError, match=says):
            main(command(runs=[str(tmp_path / asked)]))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_sweep_that_is_not_there_is_answered_by_one_that_may_be_meant(tmp_path):
    for name in ("sweep", "run"):
        (tmp_path / name / "0").mkdir(parents=True)
        (tmp_path / name / "0" / "status.json").write_text("{}")
    (tmp_path / "sweep" / "overrides.yaml").write_text("[]")
    with pytest.raises(UserError, match=r"(?s)swep: no such folder.*nearest: sweep=.*/sweep$"):
        sweep_table(tmp_path / "swep")
    named = (tmp_path / "sweep").rename(tmp_path / "my sweep, é")
    for missing in (tmp_path / "my swep, é", tmp_path):
        with pytest.raises(UserError) as error:
            sweep_table(missing)
        (word,) = shlex.split(str(error.value).partition("nearest: ")[2])
        assert values_by_key([word]) == {"sweep": str(named)}


def test_a_sweep_is_its_jobs_and_what_was_joined_is_read_as_it_is(tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    for seed in (0, 1):
        job = make_run(sweep / f"{seed}", make_records(RETURNS, seed=seed))
        (job / "status.json").write_text("{}")
    dt = make_run(
        tmp_path / "dt", make_records(RETURNS, "dt", agent="dt"), "agent: {name: dt}\nseed: 0\n"
    )
    assert runs_within(sweep) == [sweep / "0", sweep / "1"]
    present([*runs_within(sweep), *runs_within(dt)], tmp_path / "out")
    present([tmp_path / "out"], tmp_path / "again")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert set(summary["agent"]) == {"at", "dt"}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "summary.csv"), summary)


def test_seeds_of_one_agent_are_one_curve(tmp_path):
    runs = [
        make_run(
            tmp_path / f"{seed}",
            make_records(RETURNS, seed=seed),
            f"agent: {{name: at}}\nseed: {seed}\n",
        )
        for seed in (0, 1)
    ]
    present(runs, tmp_path / "out")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert set(summary["agent"]) == {"at"}
    assert set(summary["seeds"]) == {2}
    assert not (tmp_path / "out" / "agents.png").exists()


def test_nothing_is_concluded_from_little():
    """No ratio where the first interval nearly reaches 0, and no word on few contexts."""

    def said(first, contexts, least=0.0):
        returns = [[max(first * (i % 2), least), 5.0] for i in range(contexts)]
        records = pd.concat(
            [
                make_records(returns),
                make_records([[0.0, 1.0]] * contexts, "no_context"),
            ]
        )
        return table_text(summarize(records), compare(records))

    few, many = said(1.0, 4, least=0.5), said(1.0, 40)
    assert "times what" not in few and "4 rollouts, too few to conclude from" in few
    assert "times what" not in said(1e-3, 40, least=1e-4)
    assert "n=2 earns 10.0 times what n=1 earns" in many and "above 0" in many
    for contexts, enough in ((19, False), (20, True)):
        text = said(1.0, contexts, least=0.5)
        assert ("times what" in text) == enough != ("too few to conclude from" in text)
    costs = make_records([[-0.01, -5.0]] * 40)
    assert "times what" not in table_text(summarize(costs), compare(costs))


def test_nothing_is_written_over_records_or_before_all_is_read(tmp_path):
    good, bad = (
        make_run(tmp_path / "good", make_records(RETURNS)),
        make_run(tmp_path / "bad", make_records(RETURNS)),
    )
    before = (good / "records.csv").read_bytes()
    with pytest.raises(ValueError, match="two of the runs hold the same records"):
        present([good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make_run(tmp_path / "third", make_records(RETURNS, seed=5))
    (good / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="is the folder of a run"):
        present([good, tmp_path / "third"], tmp_path / "third" / ".." / "good")
    assert (good / "records.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["records.csv", "records.csv.gz"])
def test_records_that_no_plot_has_made_are_kept(name, tmp_path):
    """As those that somebody has sent; what an earlier plot has joined is made anew."""
    runs = [make_run(tmp_path / f"{seed}", make_records(RETURNS, seed=seed)) for seed in (0, 1)]
    (tmp_path / "sent").mkdir()
    make_records(RETURNS).to_csv(tmp_path / "sent" / name, index=False)
    before = (tmp_path / "sent" / name).read_bytes()
    with pytest.raises(ValueError, match=f"holds a {name} that no plot has made"):
        present(runs, tmp_path / "sent", formats=[])
    assert [path.name for path in (tmp_path / "sent").iterdir()] == [name]
    assert (tmp_path / "sent" / name).read_bytes() == before
    for some in (runs, runs[:1]):
        present(some, tmp_path / "out", formats=[])
    assert set(pd.read_csv(tmp_path / "out" / "records.csv")["seed"]) == {0}


def test_reported_numbers_are_powers_of_two_and_the_largest_of_each_agent():
    def of(**numbers):
        return pd.concat(
            pd.DataFrame({"agent": agent, "task": "t", "trajectories": some})
            for agent, some in numbers.items()
        )

    assert reported(of(a=[3, 1, 2, 4, 5, 6, 6])) == [1, 2, 4, 6]
    assert reported(of(a=[3])) == [3]
    assert reported(of(a=range(1, 13), b=range(1, 17))) == [1, 2, 4, 8, 12, 16]


def test_an_agents_first_attempt_is_compared_with_its_last():
    """Neither is a number that is shown for its own sake, where agents made other attempts."""
    rising = np.tile(np.arange(3.0, 16.0), (24, 1))
    short, long = make_records(rising[:, :10], agent="short"), make_records(rising, agent="long")
    records = pd.concat([short[short["trajectories"] >= 3], long])
    text = table_text(summarize(records), compare(records))
    assert "short, own trajectories in context: n=10 earns 2.4 times what n=3 earns" in text
    assert "long, own trajectories in context: n=13 earns 5.0 times what n=1 earns" in text
    assert "n=10" in text.splitlines()[1]


def test_a_condition_has_one_name_in_code_and_docs():
    assert set(NAMES) == set(RECORD_CONDITIONS)
    assert len(set(NAMES.values())) == len(NAMES)
    page = (ROOT / "docs/evaluation.md").read_text()
    missing = [value for value, name in NAMES.items() if f"| `{value}` | {name} |" not in page]
    assert missing == []


def test_every_agent_is_compared_at_its_own_last_attempt():
    tables = []
    for agent, attempts in (("short", 2), ("long", 3)):
        earned = [[float(n) for n in range(attempts)]] * 2
        tables += [make_records(earned, agent=agent)]
        tables += [make_records(np.zeros((2, attempts)), "no_context", agent=agent)]
    last = last_comparisons(compare(pd.concat(tables)))
    assert last.set_index("agent")["difference"].to_dict() == {"short": 1.0, "long": 2.0}


def test_baselines_of_one_kind_are_compared_by_name():
    tables = [make_records(RETURNS), *(make_records(RETURNS, "dt", name) for name in ("a", "b"))]
    last = last_comparisons(compare(pd.concat(tables)))
    assert list(last["other"]) == ["Decision Transformer: a", "Decision Transformer: b"]


def test_tasks_beyond_the_training_range_are_no_more_seeds_of_the_others(tmp_path):
    runs = []
    for held_out in ("between", "beyond"):
        run = make_run(tmp_path / held_out, make_records(RETURNS).assign(eval_seed=len(runs)))
        command = {"command": {"eval": {"held_out": held_out}}}
        (run / "evaluation.json").write_text(json.dumps(command))
        runs.append(run)
    present(runs, tmp_path / "both")
    agents = pd.read_csv(tmp_path / "both" / "summary.csv")["agent"].unique()
    assert set(agents) == {"at eval.held_out=between", "at eval.held_out=beyond"}


@pytest.mark.parametrize(
    ("evaluated", "names"),
    [
        # Trained to the end, stopped, and evaluated before it went on to the end.
        (
            [("newest", 100), ("newest", 20), ("newest", 60), ("100", 100)],
            {"at checkpoint=newest": 2, "at checkpoint=20": 1, "at checkpoint=60": 1},
        ),
        ([("best", 40), ("best", 60)], {"at": 2}),  # each seed has a step of its own
    ],
)
def test_seeds_that_were_trained_for_other_numbers_of_steps_are_not_averaged(
    evaluated, names, tmp_path
):
    runs = []
    for seed, (asked, step) in enumerate(evaluated):
        config = f"agent: {{name: at}}\ntrain: {{steps: 100}}\nseed: {seed}\n"
        run = make_run(tmp_path / f"{seed}", make_records(RETURNS, seed=seed), config)
        facts = {"settings": {"checkpoint": f"{step} abc"}, "command": {"checkpoint": asked}}
        (run / "evaluation.json").write_text(json.dumps(facts))
        runs.append(run)
    present(runs, tmp_path / "out")
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert dict(zip(summary["agent"], summary["seeds"], strict=True)) == names


def test_records_from_before_more_training_are_said_to_be(tmp_path, capsys):
    run = make_run(tmp_path / "run", make_records(RETURNS))
    facts = {"settings": {"checkpoint": "20 abc"}, "command": {"checkpoint": "newest"}}
    (run / "evaluation.json").write_text(json.dumps(facts))
    for steps, told in (([20], False), ([20, 30], True)):
        for step in steps:
            (run / "checkpoints" / f"{step}").mkdir(parents=True, exist_ok=True)
        present([run], run)
        said = capsys.readouterr().out
        assert ("its records are of step 20, training has reached step 30" in said) == told


def test_agents_that_cannot_be_compared_are_named(tmp_path, capsys):
    """One had short episodes, another was evaluated on tasks beyond those of training."""
    runs = []
    for name, condition, held_out, steps in (
        ("at", "own", "between", 12),
        ("bc", "bc", "between", 12),
        ("dt", "dt", "beyond", 1000),
    ):
        table = make_records(RETURNS, condition, agent=name).assign(episode_steps=steps)
        run = make_run(tmp_path / name, table, f"agent: {{name: {name}}}\nseed: 0\n")
        command = {"command": {"eval": {"held_out": held_out}}}
        (run / "evaluation.json").write_text(json.dumps(command))
        runs.append(run)
    differing = [("episode_steps", "12", "1000"), ("eval.held_out", "between", "beyond")]
    for shown, told in ((runs[:2], []), (runs, differing)):
        present(shown, tmp_path / "out", formats=[])
        said = [line for line in capsys.readouterr().out.splitlines() if "cannot be" in line]
        assert said == [
            f"t: {setting} is {one} for at, bc and {other} for dt: their returns cannot be compared"
            for setting, one, other in told
        ]


def test_a_condition_without_a_first_attempt_has_its_main_figure(tmp_path, drawn):
    """A best of n attempts is not known then: there is one panel of returns, beside others."""
    poor = make_records(np.ones((24, 8)), "distractors").assign(best_return=4.0)
    run = make_run(tmp_path / "run", poor[poor["trajectories"] == 8])
    present([run], run)
    assert (run / "return_vs_context.png").exists()
    (axis,) = [axis for axis in drawn[0].axes if axis.get_ylabel()]
    assert axis.get_ylabel().startswith("return")
    (above,) = [one for one in drawn[0].axes if one.get_xlabel() == "steps in the context"]
    assert above.get_xlim() == axis.get_xlim()


def test_a_training_curve_goes_on_over_empty_cells(tmp_path, monkeypatch):
    """A point between two of them would be no line at all."""
    log = pd.DataFrame(
        {
            "step": [1, 2, 3, 4],
            "loss": [2.0, None, 1.0, None],
            "first_step_loss": [3.0, 2.5, 2.0, 1.5],
            "first_step_loss_1": [None, 2.0, None, 1.0],
            "first_step_loss_2": [None] * 4,
        }
    )
    monkeypatch.setattr(plt, "close", lambda figure: None)
    figures.training_curves([("at", "t", log)], tmp_path / "training.png")
    drawn = [line.get_xdata().tolist() for axis in plt.gcf().axes for line in axis.lines]
    assert drawn == [[1, 3], [1, 2, 3, 4], [2, 4], []]


def test_each_figure_gets_what_belongs_to_the_runs_that_have_it(tmp_path, monkeypatch):
    """The first run has no logs; the second, a baseline, is logged, and its attempts are kept."""
    told = {}
    for name in ("training_curves", "learning_curves", "attempts", "return_vs_context"):
        monkeypatch.setattr(figures, name, lambda *given, name=name: told.setdefault(name, given))
    unlogged = make_run(tmp_path / "at", make_records(RETURNS))
    baseline = make_records(RETURNS, "dt", agent="dt").assign(trained_trajectories=1, task="u")
    logged = make_run(tmp_path / "dt", baseline, "agent: {name: dt}\nseed: 0\n")
    for number, name in enumerate(("metrics.csv", "learning_curve.csv")):
        pd.DataFrame({"step": [number]}).to_csv(logged / name, index=False)
    (logged / "rollouts.npz").touch()
    present([unlogged, logged], tmp_path / "out")
    for number, name in enumerate(("training_curves", "learning_curves")):
        ((agent, task, table),), _ = told[name]
        assert (agent, task, table["step"].tolist()) == ("dt", "u", [number])
    rollouts, agent, grows, numbers, _ = told["attempts"]
    assert (rollouts, agent, grows, numbers) == (logged / "rollouts.npz", "dt", False, [1, 2, 3])
    summary, *_ = told["return_vs_context"]
    assert dict(zip(summary["agent"], summary["trained_trajectories"], strict=True)) == {
        "at": 2,
        "dt": 1,
    }


def test_a_sweeps_table_holds_the_last_numbers_of_each_job(tmp_path):
    """Of a training, of a quickstart with two agents, and of an evaluation whose records lie
    elsewhere."""
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    write_overrides(sweep, [])
    for job in ("0", "1", "2"):
        (sweep / job).mkdir()
        write_overrides(sweep / job, [f"seed={job}", "run=x"])
        write_json(sweep / job / "status.json", {"state": "finished"})
    log = pd.DataFrame({"step": [5, 10], "loss": [2.0, 1.0], "seconds": [3.0, 4.0]})
    log.to_csv(sweep / "0" / "metrics.csv", index=False)
    make_records(RETURNS).to_csv(sweep / "0" / "records.csv", index=False)
    for agent, loss in (("at", 7.0), ("dt", 8.0)):
        (sweep / "1" / agent).mkdir()
        log.assign(loss=loss).to_csv(sweep / "1" / agent / "metrics.csv", index=False)
    elsewhere = make_run(tmp_path / "elsewhere", make_records(RETURNS, "no_context"))
    write_json(sweep / "2" / "status.json", {"state": "failed", "results": str(elsewhere)})
    rows = sweep_table(sweep).astype(object).to_dict("records")
    found = [{key: value for key, value in row.items() if value == value} for row in rows]
    last = {"step": 10, "seconds": 4.0}
    of_two = {
        f"{agent} {name}": value
        for agent, loss in (("at", 7.0), ("dt", 8.0))
        for name, value in (last | {"loss": loss}).items()
    }
    assert found == [
        {"job": "0", "state": "finished", "seed": "0", **last, "loss": 1.0, "return own n=3": 3.5},
        {"job": "1", "state": "finished", "seed": "1", **of_two},
        {"job": "2", "state": "failed", "seed": "2", "return no_context n=3": 3.5},
    ]
    make_run(tmp_path / "run", make_records(RETURNS))
    write_overrides(tmp_path / "run", [])
    (tmp_path / "run" / "0").mkdir()
    (tmp_path / "run" / "0" / "status.json").write_text("{}")
    with pytest.raises(UserError, match="no jobs of a sweep are there"):
        sweep_table(tmp_path / "run")


def test_whose_attempts_are_drawn_is_said(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(plt, "close", lambda figure: titles.append(figure.get_suptitle()))
    steps = {"physics": np.zeros((1, 3, 5, 0)), "reward": np.ones((1, 3, 4)), "task_id": ["t"]}
    for condition in ("own", "dt"):
        run = make_run(tmp_path / condition, make_records(RETURNS, condition))
        np.savez(run / "rollouts.npz", **steps)
        present([run], run)
    said = [title for title in titles if "attempts of" in title or "attempts without" in title]
    assert said == [
        "attempts of one growing context a row, each with its return",
        "attempts without a context a row, each with its return",
    ]
