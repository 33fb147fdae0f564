"""Evaluations overwrite nothing, fail before the agent acts, and never fail for a picture."""

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

import datasets
from agentic_transformer.agents.attempts import Player
from agentic_transformer.config import (
    AgentConfig,
    DataPlace,
    EvalConfig,
    EvaluateCommand,
    PlotCommand,
    QuickstartCommand,
    TrainCommand,
)
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.evaluation import results_folder
from agentic_transformer.evaluation.conditions import check_conditions, evaluation_tasks
from agentic_transformer.evaluation.evaluate import load_evaluation
from experiments import evaluate, plot, quickstart
from experiments.cli import run_folder
from experiments.cli.folders import runs_within
from tests import processes
from tests.faults.saved_agents import save
from tests.seeds import SEED
from tests.small_agents import TASK

pytestmark = pytest.mark.slow

PICTURES = {"return_vs_context.png", "attempts.png"}


@pytest.fixture
def asked(whole, again):
    """A run that is not evaluated yet, and a command that evaluates it shortly."""
    return again, EvaluateCommand(run=str(again), eval=replace(whole[2], conditions=["no_context"]))


@pytest.fixture
def pictured(asked):
    """The same, of which there are pictures to draw."""
    run, command = asked
    return run, replace(command, eval=replace(command.eval, conditions=["own"]))


def test_a_full_disk_takes_no_folder_from_the_evaluation_that_comes_next(tmp_path):
    def claim():
        return results_folder.claim(tmp_path, {"checkpoint": "1 a"}, {}, tmp_path)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large"):
            claim()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert claim() == tmp_path


def hotter(asked, temperature):
    return replace(asked, eval=replace(asked.eval, temperature=temperature))


def run_command(folder, name, *words, **environment):
    line = [sys.executable, "-m", f"experiments.{name}", *words]
    return subprocess.run(
        line,
        cwd=folder,
        env=processes.environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_records_of_other_settings_stay_whole(pictured, capsys):
    """They carry what made them, and are plotted together, but nothing is plotted over them."""
    run, first = pictured
    assert evaluate.main(first, run) == run
    before = contents(run)
    assert {"records.csv", "summary.csv", "evaluation.json", *PICTURES} <= before.keys()
    second = evaluate.main(hotter(first, 0.25), run)
    assert contents(run) == before
    assert second.parent == run / "evaluate" and contents(second).keys() >= {
        "records.csv",
        "summary.csv",
        *PICTURES,
    }
    assert "eval.temperature=1.0, here 0.25" in capsys.readouterr().out
    assert [
        results_folder.read_settings(folder)["eval.temperature"] for folder in (run, second)
    ] == [1.0, 0.25]
    assert (second / "records.csv").read_bytes() != before["records.csv"]
    kept = json.loads(before["evaluation.json"])
    assert kept["settings"]["checkpoint"].startswith("1 ") and kept["command"]["run"] == str(run)
    both = run.parent / "both"
    plot.main(PlotCommand(runs=[str(run), str(second)], out=str(both)))
    names = set(pd.read_csv(both / "summary.csv")["agent"])
    assert names == {"at_prefix eval.temperature=1.0", "at_prefix eval.temperature=0.25"}
    with pytest.raises(ValueError, match="would be lost"):
        plot.main(PlotCommand(runs=[str(run)], out=str(second)))
    # What another plot left there, and this one does not make, would be shown as its own.
    plot.main(PlotCommand(runs=[str(run)], out=str(both)))
    assert set(pd.read_csv(both / "records.csv")["agent"]) == {"at_prefix"}
    assert not (both / "agents.png").exists()
    assert contents(run) == before
    # The first one made again is put in its own place, the second one in that of the second.
    assert evaluate.evaluate(first, run) == run
    assert (run / "records.csv").read_bytes() == before["records.csv"]
    assert not {"summary.csv", *PICTURES} & contents(run).keys()  # of the records before
    assert evaluate.evaluate(hotter(first, 0.25), run, again=False) == second


def test_records_that_do_not_say_what_made_them_stay(asked):
    """Of an earlier version."""
    run, first = asked
    (run / "records.csv").write_text("kept")
    place = evaluate.evaluate(first, run)
    assert place.parent == run / "evaluate" and (run / "records.csv").read_text() == "kept"


def test_records_of_another_checkpoint_stay(whole, asked, capsys):
    run, first = asked
    assert evaluate.evaluate(first, run) == run
    save(run, whole[1], 2)
    assert evaluate.evaluate(first, run) != run
    assert "(checkpoint=1, here 2)" in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints")
    save(run, replace(whole[1], seed=7), 1)
    evaluate.evaluate(first, run)
    assert "(its checkpoint 1 held another agent)" in capsys.readouterr().out


def test_results_go_where_they_are_asked_to_and_carry_what_made_them(asked, tmp_path):
    run, first = asked
    place = evaluate.main(replace(first, out=str(tmp_path / "elsewhere")), run)
    assert place == tmp_path / "elsewhere" and not (run / "records.csv").exists()
    assert contents(place).keys() >= {
        "records.csv",
        "evaluation.json",
        "config.yaml",
        "summary.csv",
    }
    with pytest.raises(ValueError, match="is the folder of another run"):
        evaluate.evaluate(replace(first, out=str(shutil.copytree(run, tmp_path / "other"))), run)
    with pytest.raises(ValueError, match="cannot be written to"):
        evaluate.evaluate(replace(first, out="/dev/null/x"), run)


def test_a_sweep_of_evaluations_keeps_all_and_is_drawn_as_one(asked, tmp_path):
    run, _ = asked
    words = [
        "-m",
        f"run={run}",
        "eval.temperature=0.5,1.0",
        "eval.conditions=[no_context]",
        "eval.video=false",
    ]
    done = run_command(tmp_path, "evaluate", *words)
    assert done.returncode == 0, done.stderr
    assert len(list(run.rglob("records.csv"))) == 2
    (sweep,) = (tmp_path / "runs" / "evaluate").iterdir()
    done = run_command(tmp_path, "plot", f"runs=[{sweep}]", "out=both")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "both" / "summary.csv")["agent"].nunique() == 2
    assert run_command(tmp_path, "table", f"sweep={sweep}").returncode == 0
    columns = pd.read_csv(sweep / "table.csv")
    assert columns["return no_context n=3"].notna().all()
    assert columns["eval.temperature"].tolist() == [0.5, 1.0]
    assert (sweep / "return_vs_setting.png").exists()


def test_a_sweep_of_evaluations_over_a_sweep_tells_what_became_of_each_run(asked, tmp_path):
    run, _ = asked
    for job in ("0", "1"):
        shutil.copytree(run, tmp_path / "sweep" / job)
        (tmp_path / "sweep" / job / "status.json").write_text('{"state": "finished"}')
    words = ["eval.temperature=0.5,1.0", "eval.conditions=[no_context]", "eval.video=false"]
    done = run_command(tmp_path, "evaluate", "-m", "run=sweep", *words)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "runs" / "evaluate").iterdir()
    assert run_command(tmp_path, "table", f"sweep={sweep}").returncode == 0
    columns = pd.read_csv(sweep / "table.csv")
    assert columns["eval.temperature"].tolist() == [0.5, 1.0]
    for job in ("0", "1"):
        of_job = [
            pd.read_csv(path).query("trajectories == 3")["return"].mean()
            for path in sorted(
                (tmp_path / "sweep" / job).rglob("records.csv"), key=str, reverse=True
            )
        ]
        assert columns[f"{job} return no_context n=3"].tolist() == pytest.approx(of_job)
    within = runs_within(sweep / "0")
    assert within == [tmp_path / "sweep" / job for job in ("0", "1")]
    assert len(runs_within(sweep)) == 4
    (tmp_path / "moved").mkdir()
    for name in ("runs", "sweep"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = tmp_path / "moved" / sweep.relative_to(tmp_path)
    assert runs_within(moved / "0") == [tmp_path / "moved" / "sweep" / job for job in ("0", "1")]
    assert runs_within(moved)[2].parent == tmp_path / "moved" / "sweep" / "0" / "evaluate"


def test_all_runs_of_a_sweep_are_evaluated(asked, tmp_path):
    run, _ = asked
    for job in ("0", "1"):
        shutil.copytree(run, tmp_path / "sweep" / job)
        (tmp_path / "sweep" / job / "status.json").write_text('{"state": "finished"}')
    words = ["run=sweep", "eval.conditions=[no_context]", "eval.video=false"]
    done = run_command(tmp_path, "evaluate", *words)
    assert done.returncode == 0, done.stderr
    one, other = ((tmp_path / "sweep" / job / "records.csv").read_bytes() for job in ("0", "1"))
    assert one == other
    (tmp_path / "sweep" / "1" / "status.json").write_text('{"state": "failed"}')
    done = run_command(tmp_path, "evaluate", *words)
    assert done.returncode == 2 and "its job 1 did not finish" in done.stderr


# What cannot work.


def never(self, *_):
    raise AssertionError("the agent acted")


@pytest.mark.parametrize(
    ("eval_change", "change", "says"),
    [
        (
            {"trajectories": [1, 64], "conditions": ["own", "dataset"]},
            {},
            "needs 63 trajectories .* which have 40; .* up to 41",
        ),
        (
            {"conditions": ["own", "dataset"]},
            {"data": DataPlace("nowhere")},
            "no episodes in nowhere",
        ),
        (
            {"conditions": ["own", "bayes_greedy"]},
            {"data": DataPlace("nowhere")},
            "no episodes in nowhere",
        ),
        ({}, {"checkpoint": "7"}, "no checkpoint 7"),
    ],
)
def test_what_cannot_work_fails_before_the_agent_acts(
    asked, eval_change, change, says, monkeypatch
):
    run, first = asked
    monkeypatch.setattr(Player, "attempt", never)
    with pytest.raises(ValueError, match=says):
        evaluate.evaluate(replace(first, eval=replace(first.eval, **eval_change), **change), run)
    assert not list(run.glob("evaluate/*"))


def test_an_oracle_takes_the_training_tasks_from_data_that_are_opened_once(whole, asked, capsys):
    run, first = asked
    trained = run_folder.read_config(run, TrainCommand)
    first = replace(first, eval=replace(first.eval, conditions=["own", "bayes_greedy"]))
    evaluation, _ = load_evaluation(first, run, trained)
    assert capsys.readouterr().out.count("data: ") == 1
    returns = training_data(trained.task, trained.data).returns
    assert evaluation.hypotheses.tolist() == returns.tolist()


def test_data_of_other_lengths_than_those_of_training_are_refused(asked, monkeypatch):
    """The sizes of a body are checked as data are cached."""
    run, first = asked
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("horizon: null", "horizon: 6"))
    monkeypatch.setattr(Player, "attempt", never)
    with pytest.raises(ValueError, match="trajectories have 6 steps, those of training had 12"):
        evaluate.evaluate(replace(first, eval=replace(first.eval, conditions=["dataset"])), run)


def test_data_that_grew_are_told_before_the_agent_acts(whole, asked, tmp_path, capsys):
    """They can be evaluated to the end; without data there is nothing to tell."""
    run, first = asked
    there = shutil.copytree(whole[0].parent / "data", tmp_path / "data")
    (run / "provenance.json").write_text('{"episodes": 40, "episodes_there": 40}')
    first = replace(first, data=DataPlace(str(there)))
    with_data = replace(first, eval=replace(first.eval, conditions=["no_context", "dataset"]))
    assert evaluate.evaluate(with_data, run) == run
    said = capsys.readouterr().err
    assert "warning" not in said and "\r" not in said
    buffer = datasets.buffer_folder(there, TASK, "pd")
    datasets.collect(TASK, buffer, episodes=44, seed=SEED, collector="pd", progress=False)
    second = evaluate.evaluate(with_data, run)
    said = capsys.readouterr()
    assert "warning: the run learned from 40 of 40 episodes, now 40 of 44 would" in said.err
    assert "(its data were others)" in said.out and second != run
    evaluate.evaluate(first, run)
    assert "warning" not in capsys.readouterr().err


def test_tasks_that_do_not_divide_over_the_devices_are_refused_in_words(asked, tmp_path):
    run, _ = asked
    done = run_command(
        tmp_path, "evaluate", f"run={run}", "mesh.ring=2", "mesh.virtual_devices=4", "eval.tasks=3"
    )
    assert done.returncode == 2 and "eval.tasks=3 does not divide over the 2 devices" in done.stderr
    assert done.stderr.count("\n") <= 3


def test_a_condition_without_another_task_is_found_at_once():
    (task, *_) = evaluation_tasks("cheetah_run", EvalConfig(tasks=2), 0)
    with pytest.raises(ValueError, match="condition 'foreign' needs two different tasks"):
        check_conditions(["own", "foreign"], [task, task], EvalConfig(), AgentConfig(), None)
    with pytest.raises(ValueError, match="condition 'dataset' needs the training data"):
        check_conditions(["own", "dataset"], [task, task], EvalConfig(), AgentConfig(), None)
    few = AgentConfig(top=0.1)
    with pytest.raises(ValueError, match=r"needs 15 trajectories .* 10 \(the best 0.1 of 100\)"):
        check_conditions(["dataset"], [task, task], EvalConfig(), few, 100)


def test_the_quickstart_knows_before_it_collects_that_it_could_not_evaluate(tmp_path, monkeypatch):
    config = QuickstartCommand(run=str(tmp_path / "run"))
    config.data = replace(config.data, root=str(tmp_path / "data"), episodes=12)
    monkeypatch.setattr(datasets, "collect", never)
    with pytest.raises(ValueError, match="needs 15 trajectories of the data, which have 12"):
        quickstart.main(config, tmp_path / "run")


# Pictures.


def test_nothing_that_cannot_be_drawn_keeps_results_back(pictured, capsys, monkeypatch):
    """A disk that is full for temporary files, figures and videos."""
    run, first = pictured
    first = replace(first, eval=replace(first.eval, video=True))
    for name in PICTURES | {"attempts.mp4"}:
        (run / name).write_text("of an earlier one")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    monkeypatch.setattr("imageio.v3.imwrite", full)
    assert evaluate.main(first, run) == run
    said = capsys.readouterr().out
    assert {"records.csv", "summary.csv", "comparisons.csv"} <= contents(run).keys()
    assert not {path.suffix for path in run.iterdir()} & {".png", ".mp4"}
    refused = [line for line in said.splitlines() if line.startswith(f"no {run}")]
    assert len(refused) == 5 and all("No space left on device" in line for line in refused), said
    assert "at_prefix: own trajectories in context" in said  # the table of returns


def test_figures_that_find_no_place_for_temporary_files(asked, tmp_path):
    """matplotlib itself wants one where there is no home."""
    run, _ = asked
    nowhere = {
        "TMPDIR": "/dev/null",
        "HOME": "/dev/null",
        "MPLCONFIGDIR": "/dev/null/x",
        "XDG_CACHE_HOME": "/dev/null",
    }
    code = (
        "import tempfile, sys, runpy; tempfile._candidate_tempdir_list = lambda: ['/dev/null/x']; "
        "sys.argv = ['evaluate', *sys.argv[1:]]; "
        "runpy.run_module('experiments.evaluate', run_name='__main__')"
    )
    environment = processes.environment(**nowhere)
    line = [sys.executable, "-c", code, f"run={run}", "eval.conditions=[no_context]"]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (run / "records.csv").exists() and (run / "summary.csv").exists()
    assert "empty context" in done.stdout and "Traceback" not in done.stderr


# Data that have moved.


def test_an_evaluation_is_told_where_the_data_lie_now(whole, asked, tmp_path):
    run, first = asked
    config, there = run / "config.yaml", whole[0].parent / "data"
    config.write_text(config.read_text().replace(str(there), "/gone"))
    first = replace(first, eval=whole[2])
    with pytest.raises(ValueError, match="no episodes in /gone.*data.root"):
        evaluate.evaluate(first, run)
    evaluate.evaluate(replace(first, data=DataPlace(str(there))), run)
    assert (run / "records.csv").read_bytes() == (whole[0] / "records.csv").read_bytes()
    done = run_command(tmp_path, "evaluate", f"run={run}", "data.rot=x")
    assert done.returncode == 2 and "nearest: data.root" in done.stderr
    # Where they lie is no other setting.
    moved = shutil.copytree(there, tmp_path / "moved")
    assert evaluate.evaluate(replace(first, data=DataPlace(str(moved))), run) == run


def test_a_cache_elsewhere_serves_data_that_lie_on_a_read_only_disk(whole, asked, tmp_path):
    run, first = asked
    moved = shutil.copytree(
        whole[0].parent / "data",
        tmp_path / "moved",
        ignore=shutil.ignore_patterns("*.h5", "*.lock", "*rewards*"),
    )
    place = DataPlace(str(moved), cache=str(tmp_path / "cache"))
    evaluate.evaluate(replace(first, eval=whole[2], data=place), run)
    assert (run / "records.csv").read_bytes() == (whole[0] / "records.csv").read_bytes()
    assert not list(moved.rglob("*.h5")) and list((tmp_path / "cache").rglob("*.h5"))


def test_an_evaluation_that_cannot_begin_leaves_no_folder(whole, asked, tmp_path):
    run, first = asked
    (tmp_path / "there").mkdir()
    for out in ("new/and/deep", "there"):
        first = replace(
            first,
            eval=replace(whole[2], conditions=["dataset"]),
            data=DataPlace("/gone"),
            out=str(tmp_path / out),
        )
        with pytest.raises(ValueError, match="no episodes in /gone"):
            evaluate.evaluate(first, run)
    assert not (tmp_path / "new").exists() and not list((tmp_path / "there").iterdir())


def test_an_export_is_evaluated_and_plotted_without_the_places_of_training(whole, tmp_path):
    there = whole[0].parent / "data"
    moved = shutil.copytree(whole[0].parent / "copied", tmp_path / "moved")
    (moved / "provenance.json").unlink()  # as in a run of `agentic_transformer.train`
    before = sorted(moved.rglob("*"))
    assert run_command(tmp_path, "export", f"run={moved}", "out=copy").returncode == 0
    assert sorted(moved.rglob("*")) == before
    shutil.rmtree(moved)
    done = run_command(
        tmp_path, "evaluate", "run=copy", f"data.root={there}", "eval.conditions=[dataset]"
    )
    assert done.returncode == 0, done.stderr
    assert run_command(tmp_path, "plot", "runs=[copy]").returncode == 0
