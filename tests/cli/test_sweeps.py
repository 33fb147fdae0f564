"""A sweep's jobs are told from each other by their settings: none is lost or repeated when it goes
on."""

import errno
import json
import os
import resource
from collections import Counter

import pytest
from omegaconf import OmegaConf

from experiments.cli.run_folder import read_overrides, write_overrides
from experiments.cli.run_status import read_status

pytestmark = pytest.mark.slow


def seeds(folder):
    """The seed of each job that finished, by its folder, from the settings in it."""
    found = {}
    for path in folder.glob("*/config.yaml"):
        if json.loads((path.parent / "status.json").read_text())["state"] == "finished":
            found[path.parent.name] = OmegaConf.load(path).seed
    return found


def called(*answers):
    """How often the work of each seed was begun."""
    return Counter(call["config"]["seed"] for answer in answers for call in answer.calls)


SPELLINGS = [
    ("choice(0,1,2,3,4,5)", "choice(5,4,3,2,1,0)", True),
    ("shuffle(0,1,2,3,4,5)", "shuffle(0,1,2,3,4,5)", False),
    ("0,1,2,3,4,5", "3,1,5,0,4,2", True),
    ("range(0,6)", "shuffle(range(0,6))", True),
    ("sort(5,4,3,2,1,0,reverse=true)", "0,1,2,3,4,5", False),
]


@pytest.mark.parametrize(("first", "second", "named"), SPELLINGS)
def test_a_resumed_sweep_does_each_job_once(first, second, named, forked):
    words = ["run=sweep"] if named else []
    failed = forked("train", "-m", f"seed={first}", *words, does={"2": "crash", "4": "crash"})
    assert failed.code == 1
    redone = forked("train", "-m", f"seed={second}", *words, "resume=true")
    assert redone.code == 0, redone.stderr
    assert called(failed) == Counter(range(6)) and called(redone) == Counter([2, 4])
    (sweep,) = (
        [forked.folder / "sweep"] if named else (forked.folder / "runs/point_mass_goal").iterdir()
    )
    assert sorted(seeds(sweep).values()) == list(range(6))


@pytest.mark.parametrize(
    "words", [["run=runs/${task}-x"], ["--config-dir", "cfg", "experiment=mine"]]
)
def test_a_sweep_lies_in_the_folder_that_its_settings_make(words, forked):
    """As a single run does: not in one that is named like the reference to another setting."""
    (forked.folder / "cfg" / "experiment").mkdir(parents=True)
    (forked.folder / "cfg" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nrun: runs/${task}-x\n"
    )
    sweep = forked.folder / "runs" / "point_mass_goal-x"
    failed = forked("train", "-m", "seed=0,1", *words, does={"1": "crash"})
    assert failed.code == 1 and seeds(sweep) == {"0": 0}, failed.stderr
    again = forked("train", "-m", "seed=1,0", *words, "resume=true")
    assert again.code == 0 and seeds(sweep) == {"0": 0, "1": 1}, again.stderr


def test_a_sweep_goes_on_by_a_folder_whose_name_refers_to_a_setting(forked):
    forked("train", "-m", "seed=0,1", "run=runs/${task}-x", does={"1": "crash"})
    again = forked("train", "run=runs/${task}-x", "resume=true")
    assert again.code == 0 and called(again) == Counter([1]), again.stderr


def test_a_sweep_whose_jobs_name_other_folders_is_refused(forked):
    bad = forked("train", "-m", "seed=0,1", "run=runs/${seed}")
    assert bad.code == 2 and not list(forked.folder.iterdir())
    assert "run=runs/0 in a job and run=runs/1 in another" in bad.stderr


def test_a_sweep_whose_overrides_are_lost_is_not_continued(forked):
    """It would be another one, of a single job with the settings that are the default."""
    forked("train", "-m", "seed=1,2", "run=sweep", does={"1": "crash"})
    (forked.folder / "sweep" / "overrides.yaml").write_text("")
    for words in ([], ["-m", "seed=1,2"]):
        again = forked("train", "run=sweep", "resume=true", *words)
        assert again.code == 2 and not again.calls
        assert "sweep/overrides.yaml is empty" in again.stderr


def test_overrides_are_written_whole_or_not_at_all(tmp_path):
    write_overrides(tmp_path, ["seed=1,2"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as on a full disk
    try:
        with pytest.raises(OSError):
            write_overrides(tmp_path, ["seed=1,2"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_overrides(tmp_path) == ["seed=1,2"]


def test_a_job_that_exits_leaves_the_others_of_its_sweep(forked):
    """As jobs of `verify` and `download` do."""
    done = forked("train", "-m", "run=sweep", "seed=0,1,2", does={"1": "exit"})
    assert done.code == 1 and called(done) == Counter(range(3)), done.stderr
    assert "1 of 3 jobs did not finish:\n  sweep/1: no connection\n" in done.stderr
    assert seeds(forked.folder / "sweep") == {"0": 0, "2": 2}


def test_a_job_whose_place_is_refused_says_so_in_one_line(forked):
    done = forked("train", "-m", "run=sweep", "seed=0,1", does={"1": "full disk"})
    assert done.code == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "1 of 2 jobs did not finish:", done.stderr
    assert lines[1] == f"  sweep/1: /full/params: {os.strerror(errno.ENOSPC)}"
    assert read_status(forked.folder / "sweep" / "1")["exit_code"] == 1


def test_a_killed_shuffled_sweep_of_two_settings_goes_on(forked):
    """What was not begun is told from what was, though nothing but the sweep's order says so."""
    words = ["-m", "run=sweep", "seed=shuffle(range(0,3))", "model.width=shuffle(8,16)"]
    killed = forked("train", *words, does={"1": "kill"})
    assert killed.code == -9
    done = forked("train", "-m", "model.width=16,8", "seed=2,0,1", "run=sweep", "resume=true")
    assert done.code == 0, done.stderr
    configs = [OmegaConf.load(path) for path in (forked.folder / "sweep").glob("*/config.yaml")]
    assert sorted((config.seed, config.model.width) for config in configs) == [
        (seed, width) for seed in (0, 1, 2) for width in (8, 16)
    ]


def test_a_resumed_sweep_is_found_by_any_of_its_tasks(forked):
    tasks = ["point_mass_goal", "walker_walk"]
    assert forked("train", "-m", f"task={','.join(tasks)}", does={"all": "crash"}).code == 1
    again = forked("train", "-m", f"task={','.join(reversed(tasks))}", "resume=true")
    assert again.code == 0 and len(list(forked.folder.rglob("config.yaml"))) == 2, again.stderr


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("0,1,2,3", "seed=0,1,2 there and seed=0,1,2,3 here"),
        ("0,1", "seed=0,1,2 there and seed=0,1 here"),
        ("0,1,3", "seed=0,1,2 there and seed=0,1,3 here"),
        ("0,1,2 model.width=8", "no model.width there and model.width=8 here"),
    ],
)
def test_another_sweep_is_not_continued(values, says, forked):
    forked("train", "-m", "run=sweep", "seed=0,1,2", does={"1": "crash"})
    other = forked("train", "-m", "run=sweep", "resume=true", *f"seed={values}".split())
    assert other.code == 2 and says in other.stderr and len(other.stderr.splitlines()) <= 3
    assert not other.calls and sorted(seeds(forked.folder / "sweep").values()) == [0, 2]


@pytest.mark.parametrize("resume", [[], ["resume=true"]])
def test_a_sweep_is_not_put_into_the_folder_of_a_run(resume, forked):
    """What the run there was started with is not compared: nobody meant it."""
    forked("train", "run=mine", "model.width=8", does={"all": "crash"})
    bad = forked("train", "-m", "run=mine", "seed=0,1", *resume)
    assert bad.code == 2 and not bad.calls
    assert ("holds a single run" if resume else "holds a run already") in bad.stderr
    assert "a new folder" in bad.stderr and "other overrides" not in bad.stderr


def test_the_folder_of_a_sweep_is_not_used_without_being_asked_to_go_on(forked):
    forked("train", "-m", "run=sweep", "seed=0,1,2", does={"1": "crash"})
    for words in (["-m", "seed=5,6"], ["seed=5"]):
        bad = forked("train", "run=sweep", *words)
        assert bad.code == 2 and "holds a sweep already" in bad.stderr and not bad.calls


def test_a_sweep_whose_order_was_not_recorded_is_not_continued(forked):
    """Earlier versions kept `shuffle(...)`, which is another order each time it is read."""
    forked("train", "-m", "run=sweep", "seed=2,1,0", does={"1": "crash"})
    OmegaConf.save(
        OmegaConf.create(["seed=sort(2,1,0)"]), forked.folder / "sweep" / "overrides.yaml"
    )
    again = forked("train", "-m", "run=sweep", "seed=0,1,2", "resume=true")
    assert again.code == 2 and "seed is 2 there and 0 here" in again.stderr and not again.calls


@pytest.mark.parametrize(
    "values",
    [
        "seed=1,1",
        "train.learning_rate=1e-3,0.001",
        "agent.name=a,'a'",
        "agent=at,at",
        "seed=choice(1,2,1)",
    ],
)
def test_a_value_stands_in_a_sweep_once(values, forked):
    twice = forked("train", "-m", values)
    assert (
        twice.code == 2
        and "stands there twice" in twice.stderr
        and not list(forked.folder.iterdir())
    )


def test_every_job_is_checked_before_the_first_begins(forked):
    """The second is impossible only beside another setting."""
    bad = forked("train", "-m", "agent.trajectories=8,50", "data.episodes=40")
    assert (
        bad.code == 2
        and "at most 40" in bad.stderr
        and not bad.calls
        and not list(forked.folder.iterdir())
    )


@pytest.mark.parametrize(
    "words", ["hydra.sweeper.max_batch_size=1", "hydra.job.name=x", "hydra.verbose=false"]
)
def test_settings_of_hydra_that_only_look_like_those_of_folders(words, forked):
    done = forked("train", "-m", "run=sweep", "seed=0,1", words)
    assert done.code == 0 and seeds(forked.folder / "sweep") == {"0": 0, "1": 1}, done.stderr


def test_a_file_that_moves_the_jobs_of_hydra_moves_none(forked):
    (forked.folder / "cfg" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  job:\n    chdir: true\n"
    (forked.folder / "cfg" / "experiment" / "mine.yaml").write_text(text)
    words = ["--config-dir", "cfg", "experiment=mine", "seed=0,1"]
    done = forked("train", "-m", "run=sweep", *words)
    assert done.code == 0 and seeds(forked.folder / "sweep") == {"0": 0, "1": 1}, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "hydra.run.dir=x",
        "hydra.run={dir:x}",
        "hydra.sweep={dir:x}",
        "hydra.sweep.subdir=x",
        "hydra.job.chdir=true",
        "hydra.sweeper.params={seed:[1,2]}",
        "+hydra.sweeper.params.seed=1",
        "hydra.runtime.output_dir=x",
    ],
)
def test_settings_of_hydra_that_move_runs_or_add_jobs(words, forked):
    done = forked("train", "-m", "seed=0,1", words)
    assert (
        done.code == 2
        and "are not Hydra's here" in done.stderr
        and not list(forked.folder.iterdir())
    )


@pytest.mark.parametrize("seeds", ["0", "0,1"])
def test_a_command_goes_through_the_jobs_of_a_sweep_of_any_number(seeds, forked):
    assert forked("train", "-m", f"seed={seeds}", "run=s").code == 0
    jobs = [f"s/{number}" for number in range(len(seeds.split(",")))]
    for command, outs in (("evaluate", [None for _ in jobs]), ("export", ["x/0", "x/1"])):
        words = ["out=x"] if command == "export" else []
        done = forked(command, "run=s", *words)
        assert done.code == 0, done.stderr
        asked = [(call["run"], call["config"]["run"], call["config"]["out"]) for call in done.calls]
        assert asked == [(job, job, out) for job, out in zip(jobs, outs, strict=False)]
