"""Opens the folder of a run: unique, self-describing, and never reused by accident.

    runs/<task>/<date>-<time>-<unique>/
        config.yaml      every setting
        overrides.yaml   the overrides of the command line
        provenance.json  commit, versions, command, seeds; an entry under "resumed" for each resume
        status.json      {"state": ...}: "running" from the start on, then "finished", "failed" with
                         the error or "stopped" with the signal. A killed run stays "running".
                         Every run that is not "finished" can be resumed.
        lock             locked by the process that works here, so that no other one does

A sweep has one such folder, with a folder for each job in it, see `sweeps`.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agentic_transformer.config import rename_settings
from agentic_transformer.errors import UserError, raise_config_error
from agentic_transformer.run_files import (
    CONFIG,
    LOCK,
    PROVENANCE,
    is_locked,
    lock,
    read_json,
    write_json,
)  # fmt: skip
from agentic_transformer.settings import (
    escape_interpolation,
    format_value,
    lies_in,
    settings_of,
    value_at,
)
from experiments.cli import provenance
from experiments.cli.packages import is_user_error
from experiments.cli.preemption import Stopped, received

__all__ = ["CONFIG", "PROVENANCE", "is_locked", "lock"]
RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
OVERRIDES, STATUS = "overrides.yaml", "status.json"
# Files of every run, and Hydra's note of a sweep; every other file is somebody's work.
STANDARD_FILES = frozenset({CONFIG, OVERRIDES, PROVENANCE, STATUS, LOCK, "multirun.yaml"})
# Settings that may change when a run is resumed: none of them touches what is learned.
MAY_CHANGE = (
    "run", "resume", "data.cache", "eval", "mesh", "train.log_every", "train.checkpoint_every",
    "train.keep", "train.keep_best", "train.profile",
)  # fmt: skip


@dataclass
class Opened:
    """Holds the folder of a run or a sweep, and what was there before this command."""

    path: Path
    made: list[Path]
    """Folders that the command has made, the innermost first."""
    before: set[str]
    """Names of files that the folder held."""

    def undo(self) -> None:
        """Removes what the command has made, unless there is more than the files of every run."""
        new = [path for path in self.path.iterdir() if path.name not in self.before]
        files = [file for path in new for file in (path, *path.rglob("*")) if not file.is_dir()]
        if all(file.name in STANDARD_FILES or not file.stat().st_size for file in files):
            for path in new:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.remove_made()

    def remove_made(self) -> None:
        """Removes folders that the command has made and that are empty."""
        with suppress(OSError):  # not empty
            for folder in self.made:
                folder.rmdir()


def open_folder(parent: Path, named: Path | None, resume: bool) -> Opened:
    """Opens the folder of a run or a sweep.

    Args:
        parent: where a new folder `<date>-<time>-<unique>` goes.
        named: the folder that the user named, or that is resumed; None: a new one.
        resume: whether the folder may hold something already.

    Raises:
        UserError: the folder cannot be made, or may not be used again.
    """
    wanted = named or parent
    missing = [folder for folder in (wanted, *wanted.parents) if not folder.exists()]
    while named is None:  # until the name is new; another process may also remove an empty parent
        path = parent / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        with suppress(FileExistsError, FileNotFoundError):
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return Opened(path, [path, *missing], set())
    opened = Opened(named, missing, set())
    try:
        named.mkdir(parents=True, exist_ok=True)
        opened.before = {path.name for path in named.iterdir()}
    except OSError as error:
        opened.remove_made()
        raise_config_error(f"run={named}: {error.strerror}", "a place where a folder can be made")
    if opened.before and not resume:
        holds = "a run" if STATUS in opened.before else "files"
        allowed = "a new folder, or resume=true to continue what is there"
        raise_config_error(f"run={named}: the folder holds {holds} already", allowed)
    return opened


def open_run(parent: Path, name: str, command: Any) -> Opened:
    """Opens the folder of a run: the named one, the one to resume, or a new one in `parent`.

    Args:
        parent: where new folders go.
        name: of the command.
        command: its settings.

    Raises:
        UserError: the named folder holds another run, or there is nothing to resume.
    """
    named = Path(command.run) if command.run else None
    if named:
        check_same(named, command)
    elif command.resume:
        for folder in unfinished(parent, CONFIG):
            # A run of another version, which had other settings, is passed over.
            with suppress(UserError):
                check_same(folder, command)
                if status(folder).get("command") == name:
                    named = folder
                    break
        else:
            problem = f"resume=true: no unfinished run with these settings in {parent}"
            raise_config_error(problem, "run=<folder>")
    return open_folder(parent, named, command.resume)


def unfinished(parent: Path, file: str) -> list[Path]:
    """Returns unfinished and unlocked folders in `parent` that hold `file`, newest first."""
    found = [path.parent for path in parent.glob(f"*/{file}")]
    found = [run for run in found if status(run).get("state") != "finished" and not is_locked(run)]
    return sorted(found, key=lambda run: status(run).get("started", ""), reverse=True)


def check_same(folder: Path, command: Any) -> None:
    """Raises a UserError if a folder holds a run whose settings make it learn something else."""
    if not (folder / CONFIG).is_file():
        return
    earlier = read_config(folder, type(command))
    for key in settings_of(type(command)):
        there, here = value_at(earlier, key), value_at(command, key)
        if there != here and not lies_in(key, *MAY_CHANGE):
            difference = f"{key} is {format_value(there)} there and {format_value(here)} here"
            problem = f"run={folder} cannot be continued: {difference}"
            raise_config_error(problem, "the settings it was started with")


def read_config(folder: Path, command: type) -> Any:
    """Returns the settings of a run as an instance of its command's dataclass.

    Raises:
        UserError: the folder has no settings, or not this command's.
    """
    path = folder / CONFIG
    if not path.is_file():
        problem = f"run={folder}: no run is there ({CONFIG} is missing)"
        raise_config_error(problem, "a run folder of experiments.train")
    if not path.stat().st_size:
        raise_config_error(f"{path} is empty", "a folder whose settings were written whole")
    try:
        values = OmegaConf.load(path)
        rename_settings(values, str(path))
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(command), values))
    except (OmegaConfBaseException, YAMLError) as error:
        line = str(error).splitlines()[0]
        raise_config_error(f"{path} does not hold {command.__name__}'s settings: {line}")


def facts_of(command: Any, argv: list[str]) -> dict[str, Any]:
    """Returns the provenance of a run that starts with these settings and this command line."""
    keys = [key for key in settings_of(type(command)) if key.rpartition(".")[2] == "seed"]
    return provenance.collect(argv, {key: value_at(command, key) for key in keys})


def describe(folder: Path, command: Any, overrides: list[str], facts: dict[str, Any]) -> None:
    """Writes what a run is into its folder; for a resumed run, one more entry of provenance.

    Args:
        folder: of the run.
        command: its settings.
        overrides: the overrides of the command line.
        facts: of `facts_of`.
    """
    if getattr(command, "resume", False) and (earlier := read_json(folder / PROVENANCE)):
        facts = earlier | {"resumed": [*earlier.get("resumed", []), facts]}
    else:
        folder.mkdir(exist_ok=True)
        write_overrides(folder, overrides)
    partial = folder / f".{CONFIG}.partial"
    OmegaConf.save(OmegaConf.create(_escaped(asdict(command))), partial)
    partial.replace(folder / CONFIG)
    write_json(folder / PROVENANCE, facts)


def note(folder: Path, **facts: Any) -> None:
    """Adds facts to a run's provenance."""
    if known := read_json(folder / PROVENANCE):
        write_json(folder / PROVENANCE, known | facts)


def status(folder: Path) -> dict[str, Any]:
    """Returns the status of a run or sweep; an empty dict if it has none."""
    return read_json(folder / STATUS)


def start(folder: Path, **facts: Any) -> None:
    """Writes that a run or a sweep is running."""
    write_json(folder / STATUS, {"state": "running", "started": provenance.now()} | facts)


def finish(folder: Path, **facts: Any) -> None:
    """Writes how a run or a sweep ended, after which step, and on which devices."""
    note(folder, **provenance.devices())
    step = saved_step(folder)
    ended = {"ended": provenance.now()} | ({} if step is None else {"step": step})
    write_json(folder / STATUS, status(folder) | ended | facts)


@contextmanager
def running(folder: Path, command: str) -> Iterator[dict[str, Any]]:
    """Writes that a run is running, and in the end how it ended, however that was.

    Yields:
        a dict for more facts about a run that finishes.
    """
    start(folder, command=command)
    facts: dict[str, Any] = {}
    try:
        yield facts
    except BaseException as error:
        received()
        ended = outcome(error)
        try:
            finish(folder, **ended)
        except OSError as unwritten:  # must not hide the error
            text = f"{folder / STATUS} cannot say that the run {ended['state']}: {unwritten}"
            print(text, file=sys.stderr, flush=True)
        if isinstance(error, Stopped):
            step = saved_step(folder)
            at = "before its first checkpoint" if step is None else f"at step {step}"
            print(f"{folder}: stopped by {error.signal} {at}", file=sys.stderr, flush=True)
        raise
    finish(folder, state="finished", **facts)


def outcome(error: BaseException) -> dict[str, Any]:
    """Returns the status of a run that an exception ended."""
    if isinstance(error, Stopped):
        return {"state": "stopped", "signal": error.signal}
    if isinstance(error, KeyboardInterrupt):  # raised by something other than our handlers
        return {"state": "stopped", "signal": "SIGINT"}
    if isinstance(error, SystemExit):
        failed = {"state": "failed", "error": f"exit code {error.code}"}
        return failed if error.code else {"state": "finished"}
    if is_user_error(error):
        return {"state": "failed", "error": str(error), "exit_code": 2}
    return {"state": "failed", "error": f"{type(error).__name__}: {error}", "exit_code": 1}


def saved_step(folder: Path) -> int | None:
    """Returns the step of a run's newest checkpoint, by its name alone; None if there is none."""
    steps = (path.name for path in (folder / CHECKPOINTS).glob("*"))
    return max((int(name) for name in steps if name.isdecimal()), default=None)


def write_overrides(folder: Path, overrides: list[str]) -> None:
    """Writes the overrides of the command line into the folder of a run or a sweep."""
    OmegaConf.save(OmegaConf.create(overrides), folder / OVERRIDES)


def read_overrides(folder: Path) -> list[str]:
    """Returns the overrides of a run or a sweep; an empty list if none were written."""
    path = folder / OVERRIDES
    if not path.is_file() or not path.stat().st_size:
        return []
    # Not resolved: what looks like an interpolation is part of an override.
    return list(map(str, OmegaConf.to_container(OmegaConf.load(path))))


def _escaped(value: Any) -> Any:
    """Returns settings in which OmegaConf finds no interpolations: they are resolved already."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(map(_escaped, value))
    return escape_interpolation(value) if isinstance(value, str) else value
