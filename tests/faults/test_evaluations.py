"""A killed evaluation keeps its finished conditions and comes to the same records."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from agentic_transformer.config import (
    EvalConfig,
    EvaluateCommand,
)
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.evaluation.statistics import summarize
from agentic_transformer.run_files import lock
from experiments.evaluate import evaluate
from tests.faults.saved_agents import save
from tests.processes import environment

pytestmark = pytest.mark.slow

CONDITIONS = ["own", "no_context", "foreign", "dataset"]
# Kills itself when its second condition begins.
KILLED = """
import os, runpy, signal
from agentic_transformer.evaluation.rollouts import Evaluation
attempts = Evaluation.attempts
def killed(self, condition):
    if condition == "no_context":
        os.kill(os.getpid(), signal.SIGKILL)
    return attempts(self, condition)
Evaluation.attempts = killed
runpy.run_module("experiments.evaluate", run_name="__main__")
"""


def results(run):
    arrays = dict(np.load(run / "rollouts.npz"))
    return (run / "records.csv").read_bytes(), {
        name: array.tobytes() for name, array in arrays.items()
    }


def interrupted(run, config, monkeypatch, at):
    """Evaluates until a condition begins."""
    attempts = Evaluation.attempts

    def fail(self, condition):
        if condition == at:
            raise KeyboardInterrupt
        return attempts(self, condition)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "attempts", fail)
        with pytest.raises(KeyboardInterrupt):
            evaluate(EvaluateCommand(run=str(run), eval=config), run)
    assert not (run / "records.csv").exists()


def evaluated(run, config, monkeypatch):
    """The conditions that an evaluation went through."""
    attempts, seen = Evaluation.attempts, []

    def note(self, condition):
        seen.append(condition)
        return attempts(self, condition)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "attempts", note)
        evaluate(EvaluateCommand(run=str(run), eval=config), run)
    assert not list(run.glob("evaluate/*/records.csv"))
    return seen


def test_a_killed_evaluation_goes_on_to_the_same_records(whole, again, tmp_path):
    def run(*line):
        line = [sys.executable, *line, f"run={again}"]
        return subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)

    killed = run("-c", KILLED)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (again / "records.csv").exists()
    done = run("-m", "experiments.evaluate")
    assert done.returncode == 0, done.stderr
    assert "own: kept" in done.stderr + done.stdout
    assert results(again) == results(whole[0])


def test_finished_conditions_are_not_evaluated_again(whole, again, monkeypatch):
    interrupted(again, whole[2], monkeypatch, at="foreign")
    assert evaluated(again, whole[2], monkeypatch) == ["foreign", "dataset"]
    assert results(again) == results(whole[0])
    assert (
        evaluated(again, whole[2], monkeypatch) == CONDITIONS
    )  # what is finished is evaluated anew if one asks


def test_half_written_parts_are_not_taken(whole, again, monkeypatch):
    interrupted(again, whole[2], monkeypatch, at="foreign")
    (unfinished,) = again.glob("evaluate/*/unfinished")
    (unfinished / "rollouts.npz").rename(unfinished / ".rollouts.npz")
    (unfinished / "no_context.csv").rename(unfinished / ".no_context.csv")
    assert evaluated(again, whole[2], monkeypatch) == CONDITIONS
    assert results(again) == results(whole[0])


def test_another_evaluation_takes_nothing_from_one_that_did_not_finish_and_leaves_it_its_parts(
    whole, again, monkeypatch
):
    interrupted(again, whole[2], monkeypatch, at="foreign")
    other = EvalConfig(**vars(whole[2]) | {"seed": 1, "conditions": ["own"]})
    assert evaluated(again, other, monkeypatch) == ["own"]
    shutil.move(again / "records.csv", again / "other.csv")
    (again / "evaluation.json").unlink()
    assert evaluated(again, whole[2], monkeypatch) == ["foreign", "dataset"]
    assert results(again) == results(whole[0])


def test_parts_that_other_code_made_are_dropped_and_that_is_said(whole, again, monkeypatch, capsys):
    interrupted(again, whole[2], monkeypatch, at="foreign")
    monkeypatch.setattr("experiments.cli.provenance.changes", lambda: "others")
    assert evaluated(again, whole[2], monkeypatch) == CONDITIONS
    said = "unfinished results are dropped, since they differ in: uncommitted changes"
    assert said in capsys.readouterr().out


def test_the_checkpoint_that_is_asked_for_is_evaluated(whole, again):
    save(again, whole[1], 2)
    evaluate(EvaluateCommand(run=str(again), checkpoint="1", eval=whole[2]), again)
    assert results(again) == results(whole[0])


@pytest.mark.parametrize("conditions", [["no_context"], ["no_context", "dataset"]])
def test_what_stays_empty_without_the_data_is_said(conditions, whole, again, capsys):
    asked = replace(whole[2], conditions=conditions)
    records = pd.read_csv(
        evaluate(EvaluateCommand(run=str(again), eval=asked), again) / "records.csv"
    )
    empty = records[["best_return", "repeat_miss_rate"]].isna().all(axis=None)
    found = summarize(records)["found"].isna().all()
    said = "best_return, found and repeat_miss_rate stay empty" in capsys.readouterr().out
    assert said == empty == found == ("dataset" not in conditions)


def test_pictures_of_another_evaluation_do_not_stay(whole, again):
    """Records without the agent's own attempts do not show those of an earlier evaluation."""
    for name in ("rollouts.npz", "attempts.png", "attempts.mp4"):
        (again / name).write_bytes(b"of an earlier one")
    assert (
        evaluate(
            EvaluateCommand(run=str(again), eval=replace(whole[2], conditions=["no_context"])),
            again,
        )
        == again
    )
    assert not [*again.glob("rollouts*"), *again.glob("attempts*")]


def test_two_processes_do_not_make_the_same_evaluation(whole, again, monkeypatch):
    command = EvaluateCommand(run=str(again), eval=whole[2])
    interrupted(again, whole[2], monkeypatch, at="own")
    (work,) = again.glob("evaluate/*")
    with lock(work), pytest.raises(ValueError, match="another process works there"):
        evaluate(command, again)
    with lock(work):
        evaluate(replace(command, eval=replace(whole[2], conditions=["no_context"])), again)
