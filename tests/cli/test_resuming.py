"""A run or a sweep goes on by its folder alone, and may be given more steps."""

import re
import shlex
import shutil

import pytest
from omegaconf import OmegaConf

from agentic_transformer.config import TrainCommand
from agentic_transformer.errors import UserError
from agentic_transformer.find_run import nearest_run
from agentic_transformer.validation import check_init
from experiments.train import main

pytestmark = pytest.mark.slow

FIRST = ["run=kept", "seed=1", "model.width=8", "agent=dt"]


def test_the_folder_alone_is_enough(forked):
    (first,) = forked("train", *FIRST, does={"all": "crash"}).calls
    again = forked("train", "run=kept", "resume=true")
    assert again.code == 0, again.stderr
    (second,) = again.calls
    first["config"].pop("resume"), second["config"].pop("resume")
    assert first == second


def test_what_is_given_beside_the_folder_counts(forked):
    forked("train", *FIRST, does={"all": "crash"})
    (call,) = forked("train", "run=kept", "resume=true", "train.log_every=3").calls
    assert (call["config"]["train"]["log_every"], call["config"]["seed"]) == (3, 1)


def test_a_run_goes_on_where_its_data_have_moved_to(forked):
    """Where it finds none, the place of its data stays as it was."""
    forked("train", *FIRST, does={"all": "crash"})
    config = forked.folder / "kept" / "config.yaml"
    before = config.read_bytes()
    words = ["run=kept", "resume=true", "data.root=elsewhere"]
    assert forked("train", *words, does={"all": "no data"}).code == 2
    assert config.read_bytes() == before
    (call,) = forked("train", *words).calls
    assert (call["config"]["data"]["root"], call["config"]["seed"]) == ("elsewhere", 1)
    assert OmegaConf.load(config).data.root == "elsewhere"


def test_of_runs_on_several_data_the_one_with_the_same_data_is_found(forked):
    first = ["seed=1", "model.width=8"]
    for root in ("a", "b"):
        forked("train", *first, f"data.root={root}", does={"all": "crash"})
    for root in ("a", "b"):
        (call,) = forked("train", *first, f"data.root={root}", "resume=true").calls
        assert OmegaConf.load(forked.folder / call["run"] / "config.yaml").data.root == root
        status = (forked.folder / call["run"] / "status.json").read_text()
        assert status.count('"finished"') == 1
    assert forked("train", *first, "data.root=c", "resume=true").code == 2


@pytest.mark.parametrize("more", [[], ["train.log_every=3"], ["-m"], ["-m", "mesh.ring=1,2"]])
def test_a_folder_that_holds_no_run_starts_none_by_its_name_alone(more, forked):
    """A misspelt name would train another agent than the one that was meant."""
    forked("train", *FIRST, does={"all": "crash"})
    before = sorted(forked.folder.rglob("*"))
    misspelt = forked("train", "run=kpet", "resume=true", *more)
    assert misspelt.code == 2 and not misspelt.calls
    assert "run=kpet resume=true: no run is there" in misspelt.stderr
    assert misspelt.stderr.endswith("nearest: kept\n") and misspelt.stderr.count("\n") == 3
    assert sorted(forked.folder.rglob("*")) == before


@pytest.mark.parametrize("words", ["experiment=quickstart", "seed=1", "train.steps=10"])
def test_a_job_script_says_what_to_train_and_starts_at_step_0(words, forked):
    first = forked("train", "run=new", "resume=true", words)
    assert first.code == 0 and len(first.calls) == 1, first.stderr


def test_the_nearest_run_is_of_a_like_name_or_not_given(forked, monkeypatch):
    monkeypatch.chdir(forked.folder)
    for folder in ("runs/mine", "runs/task/20260101-120000", "other"):
        place = forked.folder / folder
        place.mkdir(parents=True)
        (place / "config.yaml").write_text("")
    assert nearest_run("runs/mien") == "runs/mine"
    assert nearest_run("run/mine") == "runs/mine"
    assert nearest_run("runs/task/20260101-12000") == "runs/task/20260101-120000"
    assert nearest_run("runs/abcd") is None  # what they share is `runs/` alone


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("seed=2", "seed is 1 there and 2 here"),
        ("agent=at", "agent.name is dt there and at here"),
        ("experiment=quickstart", "seed is 1 there and 0 here"),
        ("window=w8", "seed is 1 there and 0 here"),
        ("train.steps=1", "train.steps is 2000 there and 1 here"),
    ],
)
def test_other_settings_than_those_of_the_folder_are_refused(words, says, forked):
    forked("train", *FIRST, does={"all": "crash"})
    other = forked("train", "run=kept", "resume=true", *words.split())
    assert other.code == 2 and says in other.stderr and not other.calls


def test_a_folder_that_is_named_again_holds_a_run_already(forked):
    """Nobody has asked to continue, so its settings are not compared."""
    forked("train", *FIRST, does={"all": "crash"})
    again = forked("train", "run=kept", "experiment=quickstart", "seed=2")
    assert again.code == 2 and not again.calls
    assert "run=kept: the folder holds a run already\n  allowed: a new folder, or resume=true" in (
        again.stderr
    )


def test_a_run_whose_lock_cannot_be_opened_is_passed_over(forked):
    """It may be another user's, in a folder of runs that both share."""
    words = ["seed=1", "model.width=8"]
    forked("train", *words, does={"all": "crash"})
    (ours,) = (forked.folder / "runs" / "point_mass_goal").iterdir()
    theirs = ours.with_name("theirs")
    shutil.copytree(ours, theirs)
    (theirs / "lock").unlink()
    (theirs / "lock").mkdir()
    status = (theirs / "status.json").read_text()
    (theirs / "status.json").write_text(re.sub('"started": "20', '"started": "30', status))
    again = forked("train", *words, "resume=true")
    assert [call["run"] for call in again.calls] == [str(ours.relative_to(forked.folder))]


def test_a_place_that_the_file_system_refuses_is_told_in_a_line(forked):
    forked("train", *FIRST, does={"all": "crash"})
    (forked.folder / "kept" / "lock").unlink()
    (forked.folder / "kept" / "lock").mkdir()
    refused = forked("train", "run=kept", "resume=true")
    assert refused.code == 1 and not refused.calls
    assert refused.stderr == "experiments.train: kept/lock: Is a directory\n"


def test_a_run_is_not_put_into_the_folder_of_a_sweep(forked):
    named = "run='my s,x'"
    forked("train", "-m", named, "seed=0,1", does={"1": "crash"})
    bad = forked("train", named, "resume=true", "seed=1")
    assert bad.code == 2 and "the folder holds a sweep" in bad.stderr and not bad.calls
    words = shlex.split(re.search("allowed: (.*) alone", bad.stderr)[1])
    assert forked("train", *words).code == 0


def test_a_finished_run_goes_on_if_it_is_given_more_steps(forked):
    forked("train", "run=kept", "train.steps=10")
    assert "finished already" in forked("train", "run=kept", "resume=true").stdout
    more = forked("train", "run=kept", "resume=true", "train.steps=20")
    assert more.code == 0 and [call["config"]["train"]["steps"] for call in more.calls] == [20]
    assert "train.steps=20, 10 before" in more.stdout and "cosine of 20 steps" in more.stdout
    assert OmegaConf.load(forked.folder / "kept" / "config.yaml").train.steps == 20
    again = forked("train", "run=kept", "resume=true")
    assert "finished already" in again.stdout and not again.calls


def test_a_sweep_goes_on_by_its_folder_alone(forked):
    forked("train", "-m", "run=s", "seed=0,1,2", "model.width=8", does={"1": "crash"})
    again = forked("train", "run=s", "resume=true")
    assert again.code == 0, again.stderr
    assert [(c["run"], c["config"]["seed"]) for c in again.calls] == [("s/1", 1)]
    assert again.calls[0]["config"]["model"]["width"] == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quickstart", "init=runs/a"], "two agents of different shapes"),
        (["train", "logger=wandbb"], "nearest: wandb"),
    ],
)
def test_what_cannot_be_started_from_or_logged_to_is_refused(words, says, forked):
    bad = forked(*words)
    assert bad.code == 2 and says in bad.stderr and not bad.calls
    assert not list(forked.folder.iterdir())


def test_a_run_to_start_from_is_looked_for_before_anything_else(tmp_path):
    with pytest.raises(UserError, match="no checkpoints are there"):
        main(TrainCommand(init=str(tmp_path)), tmp_path / "run")
    check_init(TrainCommand(init=str(tmp_path), resume=True))  # it has started already


def test_a_learning_curve_is_of_one_evaluation(forked):
    """Its rows tell no settings, and are drawn as one line."""
    forked("train", *FIRST, "train.eval_every=5", does={"all": "crash"})
    (forked.folder / "kept" / "learning_curve.csv").write_text("step,trajectories,return\n0,1,2\n")
    mixed = forked("train", "run=kept", "resume=true", "eval.noise=0")
    assert mixed.code == 2 and not mixed.calls
    assert "learning_curve.csv would mix eval.noise=1.0 there and 0.0 here" in mixed.stderr
    for words in (["eval.noise=0", "train.eval_every=0"], ["eval.noise=1"]):
        assert forked("train", "run=kept", "resume=true", *words).code == 0
