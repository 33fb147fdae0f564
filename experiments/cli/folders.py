"""Says what a folder holds, and finds the runs in it, from its files alone.

A run has settings, or a command in its status. A sweep is no run, and has overrides or a status.
Its jobs are the folders in it that have a status. A quickstart is a run, and holds its agents like
jobs. A folder of another kind may hold runs too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agentic_transformer.errors import raise_config_error
from agentic_transformer.evaluation.results_folder import find_records
from agentic_transformer.run_files import CONFIG
from experiments.cli.run_status import STATUS, read_status

OVERRIDES = "overrides.yaml"


def contents(folder: Path) -> str:
    """Says what a folder holds: "a run", "a sweep" or "files"."""
    status = read_status(folder)
    if (folder / CONFIG).exists() or "command" in status:
        return "a run"
    return "a sweep" if status or (folder / OVERRIDES).exists() else "files"


def is_described(folder: Path) -> bool:
    """Returns whether a folder has the settings of a run, or the overrides of a sweep."""
    return any((folder / name).is_file() for name in (CONFIG, OVERRIDES))


def is_begun_sweep(folder: Path) -> bool:
    """Returns whether a folder is that of a sweep, some of whose jobs were started."""
    return contents(folder) == "a sweep" and bool(jobs(folder))


def jobs(folder: Path) -> list[Path]:
    """Returns the folders of a sweep's jobs that were started, by their numbers: 2 before 10."""
    found = (path.parent for path in folder.glob(f"*/{STATUS}"))
    return sorted(found, key=lambda job: (len(job.name), job.name))


def runs_of(folder: Path) -> list[Path]:
    """Returns the runs that a command on a trained run goes through: the folder, or its jobs.

    Raises:
        UserError: a job was not trained to its end.
    """
    found = jobs(folder)
    if contents(folder) == "a run" or not found:
        return [folder]
    for job in found:
        if read_status(job).get("state") != "finished":
            problem = f"run={folder}: its job {job.name} did not finish"
            raise_config_error(problem, "a sweep whose jobs all finished, or one of its folders")
    return found


def results_of(folder: Path) -> list[Path]:
    """Returns the folders that hold the results of a run or of a sweep's job.

    They are those of the runs that the job evaluated, those of a quickstart's agents, which have
    settings of their own, or the folder itself.
    """
    status = read_status(folder)
    if status.get("command") == "quickstart" and (agents := jobs(folder)):
        return agents
    found = status.get("results", [])  # earlier versions wrote one path, or none of several
    paths = [found] if isinstance(found, str) else found
    return [_place_now(folder, status.get("job_folder"), Path(path)) for path in paths] or [folder]


def _place_now(folder: Path, earlier: str | None, results: Path) -> Path:
    """Returns where a job's results lie: they may have moved together with its folder.

    If there are results at both places, it says which ones it returns.

    Args:
        folder: the job's folder.
        earlier: where it was when it wrote the results; None if an earlier version did.
        results: where they were then.
    """
    moved = (folder / os.path.relpath(results, earlier)).resolve() if earlier else results
    if not moved.is_dir():
        return results
    if results.is_dir() and not results.samefile(moved):
        print(f"{folder}: its results are taken from {moved}, not from {results}", file=sys.stderr)
    return moved


def runs_within(folder: Path) -> list[Path]:
    """Returns the run folders within a folder: a run, the agents of a quickstart, a sweep's jobs.

    All jobs of a sweep must have been evaluated. Records that were joined before, in the folder of
    a sweep or a quickstart, do not count: those of one agent have its settings beside them.
    """
    results = results_of(folder)
    if results != [folder]:
        return results
    if contents(folder) == "a run" and find_records(folder):
        return [folder]
    return [run for job in jobs(folder) for run in runs_within(job)] or [folder]


def runs_to_show(named: Sequence[str]) -> tuple[list[Path], Path]:
    """Returns the runs within the folders that a command names, and the place of what shows them.

    That is the folder itself, or `comparison` beside the first of several.

    Raises:
        ValueError: no folder is named.
    """
    if not named:
        raise ValueError("runs=[] names no run; give run folders, for example runs=[runs/a,runs/b]")
    folders = [Path(run) for run in named]
    place = folders[0] if len(folders) == 1 else folders[0].parent / "comparison"
    return [run for folder in folders for run in runs_within(folder)], place
