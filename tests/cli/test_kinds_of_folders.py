"""What a folder is taken for, by the files that are in it, also where some of them are missing."""

import json

import pytest

from agentic_transformer.errors import UserError
from agentic_transformer.run_files import CONFIG
from experiments.cli.folders import (
    OVERRIDES,
    contents,
    is_begun_sweep,
    is_described,
    results_of,
    runs_of,
    runs_within,
)
from experiments.cli.run_status import STATUS

FINISHED = {"state": "finished"}
RUN, QUICKSTART = FINISHED | {"command": "train"}, FINISHED | {"command": "quickstart"}


@pytest.mark.parametrize(
    ("files", "status", "jobs", "what", "described", "sweep", "runs", "within", "results"),
    [
        # whole folders
        ([CONFIG, OVERRIDES], RUN, 0, "a run", True, False, "itself", "itself", "itself"),
        ([OVERRIDES], FINISHED, 2, "a sweep", True, True, "jobs", "jobs", "itself"),
        ([CONFIG], QUICKSTART, 2, "a run", True, False, "itself", "jobs", "jobs"),
        # records that were joined before, and those of one agent
        ([OVERRIDES, "records.csv"], FINISHED, 2, "a sweep", True, True, "jobs", "jobs", "itself"),
        ([CONFIG, "records.csv"], QUICKSTART, 2, "a run", True, False, "itself", "jobs", "jobs"),
        ([CONFIG, "records.csv"], RUN, 2, "a run", True, False, "itself", "itself", "itself"),
        # folders that were stopped early or copied in part
        ([], {}, 0, "files", False, False, "itself", "itself", "itself"),
        ([CONFIG], {}, 0, "a run", True, False, "itself", "itself", "itself"),
        ([OVERRIDES], {}, 0, "a sweep", True, False, "itself", "itself", "itself"),
        ([OVERRIDES], {}, 1, "a sweep", True, True, "jobs", "jobs", "itself"),
        ([], {"state": "running"}, 0, "a sweep", False, False, "itself", "itself", "itself"),
        ([], RUN, 0, "a run", False, False, "itself", "itself", "itself"),
        ([OVERRIDES], RUN, 0, "a run", True, False, "itself", "itself", "itself"),
        ([CONFIG], QUICKSTART, 0, "a run", True, False, "itself", "itself", "itself"),
        ([], FINISHED, 2, "a sweep", False, True, "jobs", "jobs", "itself"),
        ([], QUICKSTART, 2, "a run", False, False, "itself", "jobs", "jobs"),
        # folders of several runs or of other files
        ([], {}, 1, "files", False, False, "jobs", "jobs", "itself"),
        (["records.csv"], {}, 2, "files", False, False, "jobs", "jobs", "itself"),
        (["notes.txt"], {}, 2, "files", False, False, "jobs", "jobs", "itself"),
    ],
)
def test_kinds(files, status, jobs, what, described, sweep, runs, within, results, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    if status:
        (tmp_path / STATUS).write_text(json.dumps(status))
    for number in range(jobs):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / STATUS).write_text(json.dumps(RUN))
    folders = {"itself": [tmp_path], "jobs": [tmp_path / str(number) for number in range(jobs)]}
    assert contents(tmp_path) == what
    assert is_described(tmp_path) == described
    assert is_begun_sweep(tmp_path) == sweep
    assert runs_of(tmp_path) == folders[runs]
    assert runs_within(tmp_path) == folders[within]
    assert results_of(tmp_path) == folders[results]


def test_a_sweep_names_its_runs_once_all_of_them_finished(tmp_path):
    for number, state in enumerate(("finished", "failed")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / STATUS).write_text(json.dumps({"state": state}))
    with pytest.raises(UserError, match="its job 1 did not finish"):
        runs_of(tmp_path)


def test_results_lie_where_the_status_of_a_job_says(tmp_path):
    (tmp_path / STATUS).write_text(json.dumps(FINISHED | {"command": "evaluate", "results": ["a"]}))
    assert [str(path) for path in results_of(tmp_path)] == ["a"]
    assert [str(path) for path in runs_within(tmp_path)] == ["a"]


@pytest.mark.parametrize("which", ["job", "results", "both"])
def test_results_are_found_where_they_moved_to_together_with_the_job(which, tmp_path):
    job, results = tmp_path / "a" / "sweep" / "0", tmp_path / "a" / "results"
    for folder in (job, results):
        folder.mkdir(parents=True)
    facts = {"command": "evaluate", "results": [str(results)], "job_folder": str(job)}
    (job / STATUS).write_text(json.dumps(FINISHED | facts))
    moved = tmp_path / "b" / "c"
    moved.mkdir(parents=True)
    if which == "both":
        (tmp_path / "a").rename(moved / "a")
        assert results_of(moved / "a" / "sweep" / "0") == [moved / "a" / "results"]
        return
    (job.parent if which == "job" else results).rename(moved / "here")
    assert results_of(moved / "here" / "0" if which == "job" else job) == [results]


def test_a_file_in_place_of_a_folder_holds_no_runs(tmp_path):
    file = tmp_path / "records.csv"
    file.touch()
    assert contents(file) == "files"
    assert runs_of(file) == runs_within(file) == results_of(file) == [file]
