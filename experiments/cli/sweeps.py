"""The folder of a sweep: its jobs are the folders 0, 1, ... in it, each told from the others by its
settings.

`overrides.yaml` lists every value in the order of the jobs. A resumed sweep takes that order again,
in whatever order its values are said then: a shuffled sweep is drawn once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from experiments.cli import run_folder
from experiments.cli.overrides import Assignment, CommandLine, pasteable
from experiments.cli.settings import SettingError, reject, say

Read = Callable[[list[str]], list[Assignment]]


def find(parents: Iterable[Path], read: Read, line: CommandLine) -> tuple[Path | None, CommandLine]:
    """The folder of the sweep that a command line continues, or None, and the line in its order.

    Args:
        parents: where to look for it, if the line has no `run`.
        read: reads recorded overrides; raises a SettingError if there are no such settings now.
        line: the command line.

    Raises:
        SettingError: there is nothing to continue, or the folder holds another sweep.
    """
    named = line.value("run")
    if named:
        folder = Path(named)
        if not (folder / run_folder.OVERRIDES).exists():
            return None, line
        return folder, _in_order(folder, read, line)
    if not line.value("resume", False):
        return None, line
    found = [
        place for parent in parents for place in run_folder.unfinished(parent, run_folder.OVERRIDES)
    ]
    for folder in run_folder.newest_first(found):
        if not (folder / run_folder.CONFIG).exists():  # else it is a run
            with suppress(SettingError):
                return folder, _in_order(folder, read, line)
    places = ", ".join(map(str, parents))
    return reject(f"resume=true: no unfinished sweep with these values in {places}", "run=<folder>")


def _in_order(folder: Path, read: Read, line: CommandLine) -> CommandLine:
    """The command line in the order of the sweep in a folder, which has to have the same jobs."""
    earlier = CommandLine(assignments=read(run_folder.read_overrides(folder)))
    new = [job for job in line.jobs if job not in earlier.jobs]
    gone = [job for job in earlier.jobs if job not in line.jobs]
    if new or gone:
        reject(
            f"run={folder}: the sweep there had other overrides: {_difference(earlier, line)}",
            " ".join(one.word for one in earlier.learned),
        )
    for number, job in enumerate(earlier.jobs):
        place = folder / str(number)
        words = run_folder.read_overrides(place)
        if words and CommandLine(assignments=read(words)).jobs != [job]:
            reject(
                f"run={folder}: job {place} has other values than the sweep's order says: {' '.join(words)}"
            )
    return line.ordered_as(earlier)


def _difference(there: CommandLine, here: CommandLine) -> str:
    """The first setting in whose values two sweeps differ, in words."""
    said = [{one.key: one for one in line.learned} for line in (there, here)]
    for key in said[0] | said[1]:
        values = [line[key].word if key in line else f"no {key}" for line in said]
        if any(key not in line for line in said) or set(map(str, said[0][key].values)) != set(
            map(str, said[1][key].values)
        ):
            return f"{values[0]} there and {values[1]} here"
    return "the same values otherwise combined"


def start(folder: Path, line: CommandLine) -> None:
    """Write what a sweep consists of."""
    run_folder.write_overrides(folder, [one.word for one in line.learned])
    run_folder.mark(folder, "running")


def jobs(folder: Path) -> list[Path]:
    """The folders of the jobs that were started, by their numbers."""
    found = (path.parent for path in folder.glob(f"*/{run_folder.STATUS}"))
    return sorted(found, key=lambda job: (len(job.name), job.name))


def conclude(name: str, folder: run_folder.Opened, crashed: bool, resumable: bool) -> int:
    """Note how a sweep ended, and name the jobs that failed; returns the exit code.

    Where bad input kept every job from its work, that alone is said, and what the command made is
    removed.

    Args:
        name: of the command.
        folder: of the sweep.
        crashed: whether the launcher did not come to its end, because a worker was killed, say.
        resumable: whether the same command can go on.
    """
    place = folder.place
    started = jobs(place)
    states = {job: run_folder.status(job) for job in started}
    failed = {job: state for job, state in states.items() if state.get("state") != "finished"}
    run_folder.finish(place, "failed" if failed or crashed else "finished")
    if not failed and not crashed:
        return 0
    nothing_done = len(failed) == len(started) and not (crashed and started)
    if nothing_done:
        folder.undo()
    if failed and nothing_done and all(state.get("exit_code") == 2 for state in failed.values()):
        say(name, SettingError(_together([state["error"] for state in failed.values()])))
        return 2
    print(f"{len(failed)} of {len(started)} jobs did not finish:", file=sys.stderr)
    for job, state in failed.items():
        print(
            f"  {job}: {state.get('error') or state.get('signal', 'interrupted')}", file=sys.stderr
        )
    if resumable and place.exists():
        words = pasteable({"run": str(place), "resume": "true"})
        print(f"the same command with {words} runs these alone", file=sys.stderr)
    return 1


def _together(errors: list[str]) -> str:
    """Errors of several jobs in at most three lines."""
    different = list(dict.fromkeys(errors))
    if len(different) == 1:
        return different[0]
    lines = [error.splitlines()[0] for error in different]
    return "\n".join(
        lines if len(lines) <= 3 else [*lines[:2], f"and {len(lines) - 2} more of the like"]
    )
