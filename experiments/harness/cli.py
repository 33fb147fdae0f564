"""The way from a command line to a command: check it, compose its settings with Hydra, give it a run folder, run it.

A command module holds a `main` that takes its settings, imports what is slow inside it, and ends with

    if __name__ == "__main__":
        cli.run(main, TrainCommand)

Exit codes: 0 done; 1 a failure, with its traceback, or failed jobs of a sweep; 2 bad input, in at most three lines. Bad input is
what the checks before the start find, and any ValueError or FileNotFoundError that a `raise` in the project's own code gives
later (missing data, say); HYDRA_FULL_ERROR=1 shows where. A SystemExit passes through. After SIGTERM and SIGUSR2 it is 75, after
SIGINT the process ends by that signal (a shell says 130); both say which command goes on, see `preemption`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.harness.packages import ROOT, check_packages, is_our_word
from experiments.harness.settings import SettingError, check_command, reject, say, settings

if TYPE_CHECKING:
    from experiments.harness.jobs import Job
    from experiments.harness.overrides import CommandLine

CONF = ROOT / "conf"


def run(main: Callable[..., None], command: type, together: bool = False) -> None:
    """Run a command from the words of the command line; returns on success and exits otherwise.

    Args:
        main: takes an instance of `command`, and the run's folder (a Path) where `command` has a setting `run`: a new folder for
            each run where that may be null, else the existing run that was named. Its module's name is that of its primary
            config, `conf/<module>.yaml`.
        command: dataclass of the command's settings.
        together: `main` takes a list of instances, one for each combination of the values `a,b` of settings, which need no -m.
    """
    from experiments.harness import preemption

    name = Path(main.__code__.co_filename).stem
    try:
        preemption.end_at_once()
        check_packages()
        _run(name, main, command, sys.argv[1:], together)
    except SettingError as error:
        say(name, error)
        sys.exit(2)
    except preemption.Stopped as stopped:
        if stopped.number != signal.SIGINT:
            raise
        sys.excepthook = lambda *_: None  # all is said
        raise KeyboardInterrupt from None  # by which Python ends itself with SIGINT


def _run(name: str, main: Callable[..., None], command: type, arguments: list[str], together: bool) -> None:
    import hydra

    from experiments.harness import accelerators, overrides, preemption, run_folder
    from experiments.harness.jobs import Job

    line = overrides.read(arguments, settings(command), overrides.groups(CONF, name), together)
    _check_devices(name, command, line)
    if together and line.runs:
        _run_together(name, main, [_compose(name, command, words) for words in line.each])
        return
    job = Job(name, main, command, ["python", "-m", f"experiments.{name}", *arguments], line.multirun)
    # Libraries report each of their steps at INFO (orbax does, hundreds of lines); what a user should read is printed.
    quiet = ["hydra/job_logging=stdout", "hydra.job_logging.root.level=WARNING"]
    own = [f"hydra.job.name={name}", "hydra.output_subdir=null", *quiet]
    if line.runs:
        place = job.prepare(_compose(name, command, line.first), line)
        own.append(f"hydra.{'sweep' if line.multirun else 'run'}.dir={_quoted(place)}")
    devices = accelerators.visible()
    if devices and "hydra/launcher=joblib" in line.overrides and "hydra.launcher.n_jobs" not in "".join(line.overrides):
        own.append(f"hydra.launcher.n_jobs={len(devices)}")
    sys.argv = [sys.argv[0], *own, *(line.first if together else line.overrides), *line.flags]
    _register(command)
    start = hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)
    if not line.runs:
        start()
        return
    try:
        if not line.multirun:
            start()
            return
        with run_folder.lock(place):
            code = _sweep(start, job, place)
    except preemption.Stopped as stopped:
        print(f"stopped by {stopped.signal}; to go on: {job.again(place)}", file=sys.stderr, flush=True)
        raise
    sys.exit(code)


def _sweep(start: Callable[[], None], job: Job, place: Path) -> int:
    """Run the jobs of a sweep in its folder; returns the exit code.

    Raises:
        Stopped: a signal has stopped it.
    """
    from experiments.harness import preemption, run_folder

    if "hydra/launcher=joblib" in job.words:
        preemption.end_jobs()
    else:
        preemption.end_at_once()
    crashed, stopped = False, None
    try:
        start()
    except preemption.Stopped as error:
        stopped = error
    except SystemExit:
        crashed = True
    if (number := preemption.told()) is not None:
        stopped = preemption.Stopped(number)
    if stopped:
        run_folder.finish(place, "stopped", signal=stopped.signal)
        raise stopped
    return job.conclude_sweep(place, crashed)


def _check_devices(name: str, command: type, line: CommandLine) -> None:
    """Raise a SettingError if jobs of a sweep ask for different numbers of devices: they share a process, which has one."""
    counts = {}
    for words in line.kinds if line.runs and line.multirun and line.of_groups else []:
        if hasattr(made := _compose(name, command, words), "mesh"):
            counts.setdefault(made.mesh.virtual_devices, " ".join(words))
    if len(counts) > 1:
        what = "; ".join(f"mesh.virtual_devices={count} of {words}" for count, words in counts.items())
        reject(f"a process has one number of devices: {what}", "one command for each number")


def _run_together(name: str, main: Callable[..., None], commands: list[Any]) -> None:
    """Run a command on all its combinations of settings at once; bad input that it finds is said as such."""
    try:
        main(commands)
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, SettingError) or not is_our_word(error) or "HYDRA_FULL_ERROR" in os.environ:
            raise
        reject(str(error))


def _compose(name: str, command: type, words: list[str]) -> Any:
    """The settings that overrides make, as an instance of the dataclass; every value has been checked."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    _register(command)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            made = OmegaConf.to_object(compose(name, words))
    except MissingMandatoryValue as error:
        reject(f"{error.full_key} is not given", f"{error.full_key}=<{settings(command)[error.full_key].allowed}>")
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        reject(" ".join(re.split("To append|Config search path", str(error))[0].split()))
    check_command(made)
    return made


def _register(command: type) -> None:
    """Give Hydra the command's dataclass, by which it types what the files under conf/ say."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=command)


def _quoted(path: Path) -> str:
    """A path in the grammar of Hydra's overrides."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
