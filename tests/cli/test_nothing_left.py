"""A command that fails before it has done something leaves the folders as they were."""

import re

import pytest

from experiments.cli.sweeps import _three_lines

pytestmark = pytest.mark.slow


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WAYS = [("no data", 2), ("no device", 1)]


@pytest.mark.parametrize(("does", "code"), WAYS)
@pytest.mark.parametrize(
    "words", ["", "run=some/new/path", "run='a[1]/b'", "-m seed=0,1", "-m seed=0,1 run=some/new"]
)
def test_nothing_is_left(does, code, words, forked):
    failed = forked("train", *words.split(), does={"all": does})
    assert failed.code == code and failed.calls
    assert tree(forked.folder) == []
    count = "2 of 2 jobs did not finish, and nothing was kept:"
    assert (count in failed.stderr) == words.startswith("-m")
    if code == 2:
        told = failed.stderr.replace(f"{count} ", "")
        assert told == "experiments.train: no episodes\n  allowed: some\n"
    elif words.startswith("-m"):
        assert re.search(r"kept:\n  \S+/0: .*no device\n  \S+/1: .*no device\n$", failed.stderr)
    assert "resume=true" not in failed.stderr


@pytest.mark.parametrize("does", ["no data", "no device"])
@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_what_was_there_before_stays(does, sweep, forked):
    """An empty folder, its parents, and what is in a folder that a run may use."""
    for place in ("runs/point_mass_goal", "mine/empty", "mine/used"):
        (forked.folder / place).mkdir(parents=True)
    (forked.folder / "mine/used/notes.txt").write_text("")
    before = tree(forked.folder)
    used = ["run=mine/used", "seed=1", "resume=true"]
    for words in ([], ["run=mine/empty"], used, ["run=mine/new/one"]):
        assert forked("train", *sweep, *words, does={"all": does}).code in (1, 2)
        assert tree(forked.folder) == before


def test_a_run_that_is_continued_stays(forked):
    forked("train", "run=kept", does={"all": "kill"})
    before = tree(forked.folder)
    assert forked("train", "run=kept", "resume=true", does={"all": "no data"}).code == 2
    assert tree(forked.folder) == before
    assert forked("train", "run=kept", "resume=true").code == 0


def test_a_sweep_of_which_a_job_worked_stays(forked):
    """Its failed job too, whose status says why."""
    partly = forked("train", "-m", "run=sweep", "seed=0,1", does={"1": "no data"})
    assert partly.code == 1 and "sweep/1: no episodes" in partly.stderr
    assert {"sweep/0/train.txt", "sweep/1/status.json"} <= set(tree(forked.folder))
    again = forked("train", "-m", "run=sweep", "seed=0,1", "resume=true")
    assert again.code == 0 and len(again.calls) == 1


def test_jobs_that_miss_different_things_are_said_in_three_lines(forked):
    failed = forked(
        "collect",
        "-m",
        "task=walker_walk,cheetah_run,point_mass_goal,jaco_reach_top_left",
        does={"all": "no data"},
    )
    assert failed.code == 2 and len(failed.stderr.splitlines()) <= 3 and tree(forked.folder) == []
    assert "4 of 4 jobs did not finish, and nothing was kept: no episodes" in failed.stderr


def test_each_job_that_misses_something_else_is_named():
    count = "2 of 2 jobs did not finish"
    two = _three_lines(count, {"0": "no data\n  allowed: data", "1": "no room"})
    assert two == f"{count}:\n  job 0: no data\n  job 1: no room"
    three = _three_lines(count, {"0": "no data", "1": "no room", "2": "no room"})
    assert three == f"{count}:\n  job 0: no data\n  and 2 more like it"


def test_a_job_that_left_work_is_not_said_to_be_gone(command):
    """The files of both stay."""
    body = "from agentic_transformer.errors import UserError\nraise UserError('no data')"
    failed = command("-m", "run=sweep", "seed=0,1", body=body)
    assert failed.returncode == 2 and len(list(command.folder.rglob("seed.txt"))) == 2
    assert "2 of 2 jobs did not finish: no data" in failed.stderr


def test_bad_settings_of_hydra_leave_nothing(forked):
    bad = forked("train", "-m", "run=new/sweep", "seed=0,1", "hydra.sweeper.max_batch_size=0")
    assert bad.code and tree(forked.folder) == []


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "run=a/b"],
        ["train", "-m", "seed=0,1"],
        ["train", "task=walker_walk"],
        ["quickstart", "experiment=quickstart", "data.algo=mppi"],
        ["collect", "task=walker_walk"],
        ["plot", "runs=[nowhere]", "out=new/figures"],
        ["evaluate", "run=nowhere"],
        ["verify", "path=nowhere"],
        ["table", "sweep=nowhere"],
        ["table", "sweep=."],
        ["export", "run=nowhere", "out=new/copy"],
        ["benchmark", "suite=nothing"],
    ],
)
def test_commands_themselves_leave_nothing(words, tmp_path):
    """Without data, runs or records, started as a user does."""
    import os
    import subprocess
    import sys

    from tests.cli.conftest import ROOT

    name, *rest = words
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-m", f"experiments.{name}", *rest]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 3
    assert tree(tmp_path) == []
