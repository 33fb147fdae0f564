"""Opens the folder of a sweep; its jobs are the folders 0, 1, ... in it.

`overrides.yaml` lists every value in the order of the jobs. A resumed sweep takes this order again,
whatever the order of its values is then: a shuffled sweep is drawn once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agentic_transformer.errors import UserError, raise_config_error
from agentic_transformer.settings import shell_words
from experiments.cli import folders, resuming, run_folder, run_status
from experiments.cli.command_line import CommandLine
from experiments.cli.overrides import Assignment


def find(
    named: Path | None, parents: Iterable[Path], line: CommandLine
) -> tuple[Path, CommandLine]:
    """Returns the folder of the sweep to resume, and the command line in its order.

    Args:
        named: the folder that the settings name; it need not hold a sweep yet.
        parents: where to look for it, if they name none.
        line: the command line.

    Raises:
        UserError: there is nothing to resume, or the folder holds another sweep.
    """
    if named:
        if folders.contents(named) == "a run":
            problem = f"run={named}: the folder holds a single run, and -m makes a sweep"
            raise_config_error(problem, "a new folder, or one value for each setting, without -m")
        recorded = (named / folders.OVERRIDES).exists()
        return named, _in_order(named, line) if recorded else line
    for parent in parents:
        for folder in resuming.unfinished(parent, folders.OVERRIDES):
            if folders.contents(folder) == "a sweep":
                with suppress(UserError):
                    return folder, _in_order(folder, line)
    places = ", ".join(map(str, parents))
    problem = f"resume=true: no unfinished sweep with these values in {places}"
    return raise_config_error(problem, "run=<folder>")


def recall(line: CommandLine) -> CommandLine:
    """Returns the whole command line of a sweep that is resumed by its folder alone.

    Args:
        line: a command line; if it is not `run=<folder of a sweep> resume=true`, it is returned.

    Raises:
        UserError: a setting is wrong, or the sweep's overrides cannot be read.
    """
    if not line.value("resume", False) or not line.value("run") or line.defining_assignments:
        return line
    folder = Path(line.make_settings(line.job_overrides[0]).run)
    recorded = (folder / folders.OVERRIDES).exists()
    if not recorded or folders.contents(folder) != "a sweep":
        return line
    earlier = line.read_overrides(folder)
    return replace(line, multirun=True, assignments=[*earlier, *line.assignments])


def _in_order(folder: Path, line: CommandLine) -> CommandLine:
    """Returns the command line in the order of the sweep in a folder, which has the same values.

    Raises:
        UserError: the sweep had other values, or settings that are not known now.
    """
    earlier = {one.key: one for one in line.read_overrides(folder)}
    here = {one.key: one for one in line.defining_assignments}
    for key in earlier | here:
        one, other = earlier.get(key), here.get(key)
        if one is None or other is None or not _same_values(one, other):
            words = [known.word if known else f"no {key}" for known in (one, other)]
            difference = f"{words[0]} there and {words[1]} here"
            problem = f"run={folder}: the sweep there had other overrides: {difference}"
            raise_config_error(problem, " ".join(known.word for known in earlier.values()))
    others = [one for one in line.assignments if one not in line.defining_assignments]
    return replace(line, assignments=[*earlier.values(), *others])


def _same_values(one: Assignment, other: Assignment) -> bool:
    """Returns whether a setting has the same values, in any order; none of them is there twice."""
    return len(one.values) == len(other.values) and all(v in other.values for v in one.values)


def conclude(opened: run_folder.Opened, crashed: bool, resumable: bool) -> int:
    """Writes how a sweep ended, and prints the jobs that failed; returns the exit code.

    If bad input kept every job from its work, the command's files are removed.

    Args:
        opened: folder of the sweep.
        crashed: whether the launcher did not come to its end, because a worker was killed, say.
        resumable: whether the same command can resume.

    Raises:
        UserError: bad input kept every job from its work.
    """
    path = opened.path
    started = {job: run_status.read_status(job) for job in folders.jobs(path)}
    failed = {job: state for job, state in started.items() if state.get("state") != "finished"}
    run_status.write_ended(path, state="failed" if failed or crashed else "finished")
    if not failed and not crashed:
        return 0
    if len(failed) == len(started) and not (crashed and started):
        opened.undo()
    kept = any(job.exists() for job in failed)
    count = f"{len(failed)} of {len(started)} jobs did not finish"
    count += "" if kept or not failed else ", and nothing was kept"
    user_errors = all(state.get("exit_code") == 2 for state in failed.values())
    if failed and len(failed) == len(started) and not crashed and user_errors:
        errors = {job.name: state["error"] for job, state in failed.items()}
        raise UserError(_three_lines(count, errors))
    print(f"{count}:", file=sys.stderr)
    for job, state in failed.items():
        problem = state.get("error") or state.get("signal", "interrupted")
        print(f"  {job}: {problem}", file=sys.stderr)
    if resumable and path.exists():
        words = shell_words({"run": str(path), "resume": True})
        print(f"the same command with {words} runs these alone", file=sys.stderr)
    return 1


def _three_lines(count: str, errors: dict[str, str]) -> str:
    """Returns the errors of several jobs in at most three lines.

    Args:
        count: says how many jobs there are.
        errors: by the names of the jobs.
    """
    if len(set(errors.values())) == 1:
        return f"{count}: {next(iter(errors.values()))}"
    lines = [f"  job {name}: {error.splitlines()[0]}" for name, error in errors.items()]
    shown = lines if len(lines) == 2 else [lines[0], f"  and {len(lines) - 1} more like it"]
    return "\n".join([f"{count}:", *shown])
