"""The way from a command line to a command: check it, compose its settings with Hydra, give it a
run folder, run it.

A command module holds a `main` that takes its settings, imports what is slow inside it, and ends
with

    if __name__ == "__main__":
        cli.run(main, TrainCommand)

Exit codes: 0 done; 1 a failure, with its traceback, or failed jobs of a sweep; 2 bad input, in at
most three lines. Bad input is what the checks before the start find, and any ValueError or
FileNotFoundError that a `raise` in the project's own code gives later (missing data, say);
HYDRA_FULL_ERROR=1 shows where. A SystemExit passes through. After SIGTERM and SIGUSR2 it is 75,
after SIGINT the process ends by that signal (a shell says 130); both say which command goes on, see
`preemption`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.packages import CONF, check_packages, is_our_word
from experiments.cli.settings import SettingError, check_command, reject, say, settings

if TYPE_CHECKING:
    from experiments.cli.jobs import Job
    from experiments.cli.overrides import CommandLine


def run(main: Callable[..., None], command: type, together: bool = False) -> None:
    """Run a command from the words of the command line; returns on success and exits otherwise.

    Args:
        main: takes an instance of `command`, and the run's folder (a Path) where `command` has a
            setting `run`: a new folder for each run where that may be null, else the existing run
            that was named. Its module's name is that of its primary config, `conf/<module>.yaml`.
        command: dataclass of the command's settings.
        together: `main` takes a list of instances, one for each combination of the values `a,b` of
            settings, which need no -m.
    """
    from experiments.cli import preemption

    name = Path(main.__code__.co_filename).stem
    try:
        preemption.end_at_once()
        with preemption.stopping():
            check_packages()
            _run(name, main, command, sys.argv[1:], together)
    except SettingError as error:
        say(name, error)
        sys.exit(2)
    except preemption.Stopped as stopped:
        preemption.leave(stopped.number)


def _run(
    name: str, main: Callable[..., None], command: type, arguments: list[str], together: bool
) -> None:
    import hydra

    from experiments.cli import accelerators, overrides, preemption
    from experiments.cli.jobs import Job

    known, options = settings(command), overrides.groups(CONF, name)
    line = overrides.read(arguments, known, options, together)
    # Every job's settings are checked before the first begins.
    commands = [_compose(name, command, words) for words in line.each] if line.runs else []
    if together and line.runs:
        _run_together(name, main, commands)
        return
    job = Job(
        name, main, command, ["python", "-m", f"experiments.{name}", *arguments], line.multirun
    )
    if line.runs and line.multirun:
        line = _open_sweep(
            job, line, commands, lambda words: overrides.assignments(words, known, options, True)
        )
    elif line.runs:
        job.prepare(commands[0])
    # Libraries report each of their steps at INFO (orbax does, hundreds of lines); what a user
    # should read is printed.
    quiet = ["hydra/job_logging=stdout", "hydra.job_logging.root.level=WARNING"]
    own = [f"hydra.job.name={name}", "hydra.output_subdir=null", "hydra.run.dir=.", *quiet]
    if line.runs and line.multirun:
        own.append(f"hydra.sweep.dir={overrides.literal(str(job.folder.place))}")
    devices = accelerators.visible()
    if (
        devices
        and line.value("hydra/launcher") == "joblib"
        and line.value("hydra.launcher.n_jobs") is None
    ):
        own.append(f"hydra.launcher.n_jobs={len(devices)}")
    given = [one.key for one in line.assignments]
    own = [word for word in own if word.partition("=")[0] not in given]
    shown = line.each[0] if together else line.overrides
    sys.argv = [sys.argv[0], *own, *shown, *line.flags]
    _register(command)
    start = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)
    if not line.runs:
        start()
        return
    place = job.folder.place if job.folder else Path()
    try:
        code = _sweep(start, job, line) if line.multirun else _single(start, job)
    except preemption.Stopped as stopped:
        print(
            f"stopped by {stopped.signal}; to go on: {job.again(place)}",
            file=sys.stderr,
            flush=True,
        )
        raise
    if code:
        sys.exit(code)


def _single(start: Callable[[], None], job: Job) -> int:
    """Run a job that is no sweep's; returns the exit code, and removes the folder of one that did
    nothing.
    """
    from experiments.cli import preemption

    try:
        start()
    except preemption.Stopped:
        raise
    except (Exception, SystemExit) as ended:
        if job.folder and getattr(ended, "code", 1) in (1, 2):
            job.folder.undo()
        raise
    return 0


def _open_sweep(
    job: Job, line: CommandLine, commands: list[Any], read: Callable[[list[str]], Any]
) -> CommandLine:
    """Open the folder of a sweep; returns the command line in the order of its jobs.

    Args:
        job: gets the folder.
        line: the command line.
        commands: the settings of each of its jobs.
        read: reads overrides.

    Raises:
        SettingError: the folder or the devices cannot be had.
    """
    from experiments.cli import run_folder, sweeps
    from experiments.cli.jobs import parent_of, virtual_devices

    _check_devices(line, commands)
    parents = list(dict.fromkeys(parent_of(command, job.name) for command in commands))
    found = None
    if job.makes_run:
        of_job = dict(zip(line.jobs, commands, strict=True))
        found, line = sweeps.find(parents, read, line)
        for number, settings_of_job in enumerate(line.jobs if found else []):
            run_folder.check_same(found / str(number), of_job[settings_of_job])
    named = line.value("run") if job.makes_run else None
    virtual_devices(commands[0])
    job.folder = run_folder.open_folder(
        parents[0], found or (Path(named) if named else None), line.value("resume", False)
    )
    return line


def _sweep(start: Callable[[], None], job: Job, line: CommandLine) -> int:
    """Run the jobs of a sweep in its folder; returns the exit code.

    Raises:
        Stopped: a signal has stopped it.
    """
    from experiments.cli import preemption, run_folder, sweeps

    if line.value("hydra/launcher") == "joblib":
        preemption.end_jobs()
    else:
        preemption.end_at_once()
    crashed, stopped = False, None
    with run_folder.lock(job.folder.place):
        sweeps.start(job.folder.place, line)
        try:
            start()
        except preemption.Stopped as error:
            stopped = error
        except SystemExit:
            crashed = True
        if (number := preemption.told()) is not None:
            stopped = preemption.Stopped(number)
        if stopped:
            run_folder.finish(job.folder.place, "stopped", signal=stopped.signal)
            raise stopped
        return sweeps.conclude(job.name, job.folder, crashed, job.makes_run)


def _check_devices(line: CommandLine, commands: list[Any]) -> None:
    """Raise a SettingError if jobs of a sweep ask for different numbers of devices: they share a
    process, which has one.
    """
    counts = {}
    for words, made in zip(line.each, commands, strict=True):
        if hasattr(made, "mesh"):
            counts.setdefault(made.mesh.virtual_devices, " ".join(words))
    if len(counts) > 1:
        what = "; ".join(
            f"mesh.virtual_devices={count} of {words}" for count, words in counts.items()
        )
        reject(f"a process has one number of devices: {what}", "one command for each number")


def _run_together(name: str, main: Callable[..., None], commands: list[Any]) -> None:
    """Run a command on all its combinations of settings at once; bad input that it finds is said as
    such.
    """
    try:
        main(commands)
    except (ValueError, FileNotFoundError) as error:
        if (
            isinstance(error, SettingError)
            or not is_our_word(error)
            or "HYDRA_FULL_ERROR" in os.environ
        ):
            raise
        raise SettingError(str(error)) from error


def _compose(name: str, command: type, words: list[str]) -> Any:
    """The settings that overrides make, as an instance of the dataclass; every value has been
    checked.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    _register(command)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            made = OmegaConf.to_object(compose(name, words))
    except MissingMandatoryValue as error:
        reject(
            f"{error.full_key} is not given",
            f"{error.full_key}=<{settings(command)[error.full_key].allowed}>",
        )
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        reject(" ".join(re.split("To append|Config search path", str(error))[0].split()))
    check_command(made)
    return made


def _register(command: type) -> None:
    """Give Hydra the command's dataclass, by which it types what the files under conf/ say."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=command)
