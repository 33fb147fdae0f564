"""Runs a command from a command line: checks it, opens the folder of its run, runs it.

A command module holds a `main` that takes the command's settings, and ends with

    if __name__ == "__main__":
        app.run(main, TrainCommand)

`main` imports what is slow inside it, so that bad input is refused before jax is loaded.

Exit codes: 0 done; 1 a failure, with its traceback, or failed jobs of a sweep; 2 bad input, in at
most three lines. Bad input is what the checks before the start find, and any ValueError or
FileNotFoundError that a `raise` in this project's code gives later (missing data, say). A place
that the file system refuses is a failure in one line. HYDRA_FULL_ERROR=1 shows where each arose.
After SIGTERM and SIGUSR2 the exit code is 75; after SIGINT the process ends by that signal. Both
print the command that goes on, see `preemption`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra

from agentic_transformer import run_files
from agentic_transformer.errors import raise_config_error
from agentic_transformer.settings import quote_text, shell_words
from experiments.cli import (
    command_line,
    devices,
    help,
    output,
    preemption,
    resuming,
    run_folder,
    run_status,
    sweeps,
)
from experiments.cli.command_line import CommandLine
from experiments.cli.job import Job
from experiments.cli.packages import check_packages
from experiments.cli.user_errors import describe, is_user_error, needs_traceback


def run(
    main: Callable[..., Path | None], command: type, takes_all: bool = False, then: str = ""
) -> None:
    """Runs a command from the command line; returns on success and exits otherwise.

    Args:
        main: called with an instance of `command`. If `command` has a setting `run`, also with the
            run's folder: a new one if `run` is optional, else the one named.
        command: dataclass of settings, such as TrainCommand for experiments.train.
        takes_all: whether `main` takes a list, one instance for each combination of `a,b` values.
        then: name of the command that goes on with the run, or with all runs of the sweep.
    """
    with output.until_readers_end():
        _run_to_end(main, command, takes_all, then)


def _run_to_end(
    main: Callable[..., Path | None], command: type, takes_all: bool, then: str
) -> None:
    """Does what `run` says."""
    name = command.__name__.removesuffix("Command").lower()
    try:
        preemption.handle_signals()
        with preemption.as_stopped():
            check_packages()
            line = sweeps.recall(command_line.read(name, command, sys.argv[1:], takes_all))
            argv = ["python", "-m", f"experiments.{name}", *sys.argv[1:]]
            job = Job(name, main, command, argv, line.multirun)
            _run(line, job, takes_all)
            if then and job.opened:
                words = shell_words({"run": str(job.opened.path)})
                print(f"next: python -m experiments.{then} {words}", flush=True)
    except Exception as error:
        if needs_traceback(error):
            traceback.print_exception(error)
        else:
            print(f"experiments.{name}: {describe(error)}", file=sys.stderr)
        sys.exit(2 if is_user_error(error) else 1)
    except preemption.Stopped as stopped:
        preemption.leave(stopped.number)


def _run(line: CommandLine, job: Job, takes_all: bool) -> None:
    """Shows what the flags ask for, or checks every job's settings and then runs them."""
    if line.help:
        print({"all": help.help_text, "short": help.short_help_text}[line.help](job.name, line))
        return
    if line.flags:
        words = line.job_overrides[0]
        if words:
            line.compose(words)  # reports errors in our format before Hydra does
        _start_hydra(line, [*words, *line.flags], lambda config: None)
        return
    settings_list = [line.make_settings(words) for words in line.job_overrides]
    for settings, words in zip(settings_list, line.job_overrides, strict=True):
        resuming.check_resumed(settings, words)
    if takes_all:
        job.main(settings_list)
        return
    if line.multirun:
        line = _open_sweep(line, job, settings_list)
    else:
        job.prepare(settings_list[0])
    try:
        if not line.multirun:
            _run_single(line, job)
        elif code := _run_sweep(line, job):
            sys.exit(code)
    except preemption.Stopped as stopped:
        said = f"stopped by {stopped.signal}; to go on: {job.command_after_stop()}"
        print(said, file=sys.stderr, flush=True)
        raise


def _start_hydra(line: CommandLine, words: list[str], task_function: Callable[[Any], None]) -> None:
    """Lets Hydra compose the settings again, set up logging and call the task by its launcher."""
    ours = {
        # Libraries report each of their steps at INFO (orbax does, hundreds of lines).
        "hydra/job_logging": "stdout",
        "hydra.job_logging.root.level": "WARNING",
        "hydra.job.name": line.config_name,
        "hydra.job.chdir": "false",
        "hydra.output_subdir": "null",
        "hydra.run.dir": ".",
    }
    given = {one.key for one in line.assignments}
    words = [*(f"{key}={value}" for key, value in ours.items() if key not in given), *words]
    sys.argv = [sys.argv[0], *line.search, *words]
    start = hydra.main(
        version_base="1.3", config_path=str(line.config_path), config_name=line.config_name
    )
    start(task_function)()


def _run_single(line: CommandLine, job: Job) -> None:
    """Runs a job alone, and raises its error; removes the folder of one that failed before work."""
    _start_hydra(line, line.job_overrides[0], job)
    if job.error:
        job.undo()
        raise job.error


def _open_sweep(line: CommandLine, job: Job, settings_list: list[Any]) -> CommandLine:
    """Opens the folder of a sweep.

    Returns the command line, reordered like an earlier sweep that is resumed.

    Raises:
        UserError: the folder cannot be opened, or the number of devices cannot be set.
    """
    _check_devices(line, settings_list)
    parents = list(dict.fromkeys(map(job.parent, settings_list)))
    folder, resume = None, line.value("resume", False)
    if job.makes_run:
        folder = _named_folder(settings_list)
        if resume:
            folder, line = sweeps.find(folder, parents, line)
            for number, words in enumerate(line.job_overrides):
                resuming.check_same(folder / str(number), line.make_settings(words))
    devices.make_virtual_devices(settings_list[0])
    job.opened = run_folder.open_folder(parents[0], folder, resume)
    return line


def _named_folder(settings_list: list[Any]) -> Path | None:
    """Returns the folder that the settings of all jobs name, if they do.

    Raises:
        UserError: they name several.
    """
    (named, *others) = dict.fromkeys(settings.run for settings in settings_list)
    if others:
        problem = f"run={named} in a job and run={others[0]} in another"
        raise_config_error(problem, "one folder for a sweep, with a folder for each job in it")
    return Path(named) if named else None


def _run_sweep(line: CommandLine, job: Job) -> int:
    """Runs the jobs of a sweep in its folder; returns the exit code.

    Raises:
        Stopped: a signal has stopped it.
        UserError: bad input kept every job from its work.
    """
    folder, crashed = job.opened.path, False
    words = [f"hydra.sweep.dir={quote_text(str(folder))}"]
    if line.value("hydra/launcher") == "joblib":
        preemption.handle_signals(in_pool=True)
        if (count := len(devices.accelerators())) and not line.value("hydra.launcher.n_jobs"):
            words.append(f"hydra.launcher.n_jobs={count}")
    words += [*(one.word for one in line.assignments), "--multirun"]
    with run_files.lock(folder):
        run_folder.write_overrides(folder, [one.word for one in line.defining_assignments])
        run_status.write_running(folder)
        try:
            _start_hydra(line, words, job)
        except preemption.Stopped:
            pass  # handled below
        except SystemExit:
            crashed = True
        if (number := preemption.acknowledge_signal()) is not None:
            stopped = preemption.Stopped(number)
            run_status.write_ended(folder, **run_status.status_after(stopped))
            raise stopped
        return sweeps.conclude(job.opened, crashed, job.makes_run)


def _check_devices(line: CommandLine, settings_list: list[Any]) -> None:
    """Raises a UserError if jobs of a sweep ask for different numbers of devices.

    Jobs share a process, which has one number.
    """
    counts: dict[int, list[str]] = {}
    for settings, words in zip(settings_list, line.job_overrides, strict=True):
        if hasattr(settings, "mesh"):
            counts.setdefault(settings.mesh.virtual_devices, words)
    if len(counts) > 1:
        asked = (f"mesh.virtual_devices={n} of {' '.join(words)}" for n, words in counts.items())
        raise_config_error(
            f"a process has one number of devices: {'; '.join(asked)}",
            "one command for each number",
        )
