"""The folder of a run: unique, self-describing, and never reused by accident.

    runs/<task>/<date>-<time>-<unique>/
        config.yaml       every setting
        overrides.yaml    what was said on the command line
        provenance.json   commit, versions, command, seeds; one more entry under "resumed" for each time it was continued
        status.json       {"state": ...}: "running" from the start on, "finished" once the command returned, "failed" with its
                          error, "stopped" with the signal; and the step of its newest checkpoint. A run that was killed
                          stays "running". Whatever is not "finished" can be resumed.
        lock              held (flock) by the process that works here, so that a run is never continued twice at once

A sweep has one such folder; its jobs are folders 0, 1, ... in it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.harness import provenance
from experiments.harness.preemption import Stopped
from experiments.harness.settings import SettingError, reject, settings, shown, value_at

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
CONFIG, OVERRIDES, PROVENANCE, STATUS, LOCK = "config.yaml", "overrides.yaml", "provenance.json", "status.json", "lock"
# Settings that may change when a run is continued: none of them touches what is learned.
FREE = (
    "run", "resume", "data.cache", "eval.", "mesh.",
    "train.log_every", "train.checkpoint_every", "train.keep", "train.profile",
)  # fmt: skip


def create(parent: Path) -> Path:
    """Make a new folder `<date>-<time>-<unique>` in `parent`; two processes never get the same one."""
    while True:
        folder = parent / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        with suppress(FileExistsError, FileNotFoundError):  # the second: another process has just removed an empty parent
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder


def open_run(parent: Path, name: str, command: Any) -> Path:
    """The folder of a run: the one `command.run` names, the one to continue, or a new one in `parent`.

    Args:
        parent: where new folders go.
        name: of the command.
        command: its settings.

    Raises:
        SettingError: the named folder holds another run, or there is nothing to continue.
    """
    if command.run:
        folder = _open_named(Path(command.run), command.resume)
        check_same(folder, command)
        return folder
    if not command.resume:
        return create(parent)
    candidates = (found for found in _unfinished(parent, CONFIG) if status(found).get("command") == name)
    matching = (found for found in candidates if _is_run_of(found, command))
    return next(matching, None) or reject(f"resume=true: no unfinished run with these settings in {parent}", "run=<folder>")


def open_sweep(parent: Path, named: Path | None, overrides: list[str], resume: bool) -> Path:
    """The folder of a sweep, likewise; it is continued by the overrides that started it, in their order.

    Args:
        parent: where new folders go.
        named: the folder the user named.
        overrides: without `run` and `resume`.
        resume: whether to continue a sweep.

    Raises:
        SettingError: the named folder holds another sweep, or there is nothing to continue.
    """
    folder = _open_named(named, resume) if named else None
    if folder is None and resume:
        sweeps = (found for found in _unfinished(parent, OVERRIDES) if not (found / CONFIG).exists())
        folder = next((found for found in sweeps if _is_sweep_of(found, overrides)), None) or reject(
            f"resume=true: no unfinished sweep with these overrides in {parent}", "run=<folder>"
        )
    folder = folder or create(parent)
    if (folder / OVERRIDES).exists() and not _is_sweep_of(folder, overrides):
        reject(f"run={folder}: the sweep there had other overrides", " ".join(OmegaConf.load(folder / OVERRIDES)))
    OmegaConf.save(OmegaConf.create(overrides), folder / OVERRIDES)
    mark(folder, "running")
    return folder


def _open_named(folder: Path, resume: bool) -> Path:
    if folder.exists() and not folder.is_dir():
        reject(f"run={folder}: a file, not a folder", "the name of a folder")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        holds = "a run" if (folder / STATUS).exists() else "files"
        reject(f"run={folder}: the folder holds {holds} already", "a new folder, or resume=true to continue what is there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reject(f"run={folder}: {error.strerror}", "a place where a folder can be made")
    return folder


def _unfinished(parent: Path, file: str) -> list[Path]:
    """Folders in `parent` that hold `file`, are not finished and in which no process works, newest first."""
    found = [folder for folder in parent.glob("*") if (folder / file).is_file() and status(folder).get("state") != "finished"]
    found = [folder for folder in found if not is_locked(folder)]
    return sorted(found, key=lambda folder: status(folder).get("started", ""), reverse=True)


def _is_sweep_of(folder: Path, overrides: list[str]) -> bool:
    return list(OmegaConf.load(folder / OVERRIDES)) == overrides


def _is_run_of(folder: Path, command: Any) -> bool:
    """Whether a run was started with these settings; one of another version, with others than there are now, was not."""
    try:
        return not _difference(folder, command)
    except SettingError:
        return False


def check_same(folder: Path, command: Any) -> None:
    """Raise a SettingError if the run in a folder, if there is one, was started with settings that learn something else."""
    if (folder / CONFIG).is_file() and (why := _difference(folder, command)):
        reject(f"run={folder} cannot be continued: {why}", "the settings it was started with")


def _difference(folder: Path, command: Any) -> str:
    """The first setting in which a run differs from `command` (those in FREE aside), in words; empty if there is none."""
    earlier = read_config(folder, type(command))
    for key in settings(type(command)):
        there, here = value_at(earlier, key), value_at(command, key)
        if there != here and not key.startswith(FREE):
            return f"{key} is {shown(there)} there and {shown(here)} here"
    return ""


def read_config(folder: Path, command: type) -> Any:
    """The settings of a run as an instance of its command's dataclass.

    Raises:
        SettingError: the folder has no settings, or they are not this command's.
    """
    path = folder / CONFIG
    if not path.is_file():
        reject(f"run={folder}: no run is there ({CONFIG} is missing)", "a run folder of experiments.train")
    if not path.stat().st_size:
        reject(f"{path} is empty", "a folder whose settings were written whole")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(command), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError) as error:
        reject(f"{path} does not hold {command.__name__}'s settings: {str(error).splitlines()[0]}")


def facts_of(command: Any, words: list[str]) -> dict[str, Any]:
    """What a run starts with.

    Args:
        command: its settings.
        words: the command line.
    """
    seeds = {key: value_at(command, key) for key in settings(type(command)) if key.rpartition(".")[2] == "seed"}
    return provenance.collect(words, seeds)


def describe(folder: Path, command: Any, overrides: list[str], facts: dict[str, Any]) -> None:
    """Write what a run is into its folder; for a run that is continued, what has changed, and one more entry.

    Args:
        folder: of the run.
        command: its settings.
        overrides: what was said on the command line.
        facts: of `facts_of`.
    """
    if getattr(command, "resume", False) and (earlier := provenance.read(folder / PROVENANCE)):
        facts = earlier | {"resumed": [*earlier.get("resumed", []), facts]}
    else:
        folder.mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.create(overrides), folder / OVERRIDES)
    partial = folder / f".{CONFIG}.partial"
    OmegaConf.save(OmegaConf.structured(command), partial)
    partial.replace(folder / CONFIG)
    provenance.write(folder / PROVENANCE, facts)


def mark(folder: Path, state: str, **facts: Any) -> None:
    """Write the state of a run or sweep that starts."""
    provenance.write(folder / STATUS, {"state": state, "started": provenance.now()} | facts)


def note(folder: Path, **facts: Any) -> None:
    """Add facts to how a run was made."""
    if known := provenance.read(folder / PROVENANCE):
        provenance.write(folder / PROVENANCE, known | facts)


def finish(folder: Path, state: str, **facts: Any) -> None:
    """Note how a run or a sweep ended, after which step, and on which devices."""
    note(folder, **provenance.devices())
    step = saved_step(folder)
    ended = {"ended": provenance.now()} | ({} if step is None else {"step": step})
    provenance.write(folder / STATUS, status(folder) | {"state": state} | ended | facts)


@contextmanager
def running(folder: Path, command: str) -> Iterator[dict[str, Any]]:
    """Mark a run as running, and in the end how it ended, however that was.

    Args:
        folder: of the run.
        command: its name.

    Yields:
        a place for more facts about a run that finishes.
    """
    mark(folder, "running", command=command)
    facts: dict[str, Any] = {}
    try:
        yield facts
    except Exception as error:
        _end(folder, "failed", error=f"{type(error).__name__}: {error}")
        raise
    except Stopped as stopped:
        _end(folder, "stopped", signal=stopped.signal)
        step = saved_step(folder)
        at = "before its first checkpoint" if step is None else f"at step {step}"
        print(f"{folder}: stopped by {stopped.signal} {at}", file=sys.stderr, flush=True)
        raise
    except SystemExit as ended:
        state = "failed" if ended.code else "finished"
        _end(folder, state, **({"error": f"exit code {ended.code}"} if ended.code else {}))
        raise
    except KeyboardInterrupt:  # raised by something other than our handlers
        _end(folder, "stopped", signal="SIGINT")
        raise
    finish(folder, "finished", **facts)


def _end(folder: Path, state: str, **facts: Any) -> None:
    """As `finish`, for a run that is ended by an error: what cannot be written must not hide it."""
    try:
        finish(folder, state, **facts)
    except OSError as error:
        print(f"{folder / STATUS} cannot say that the run {state}: {error}", file=sys.stderr, flush=True)


def saved_step(folder: Path) -> int | None:
    """The step of a run's newest checkpoint, by its name alone; None if there is none."""
    steps = (path.name for path in (folder / CHECKPOINTS).glob("*"))
    return max((int(name) for name in steps if name.isdecimal()), default=None)


def status(folder: Path) -> dict[str, Any]:
    """The state of a run or sweep; empty if there is none."""
    return provenance.read(folder / STATUS)


def discard(folder: Path) -> None:
    """Remove the folder of a run that came to nothing, unless the command left something in it."""
    own = {CONFIG, OVERRIDES, PROVENANCE, STATUS, LOCK}
    if any(path.name not in own for path in folder.iterdir()):
        return
    for file in own:
        (folder / file).unlink(missing_ok=True)
    made = [parent for parent in folder.parents if parent == RUNS or RUNS in parent.parents]
    with suppress(OSError):  # not empty
        for empty in (folder, *made):
            empty.rmdir()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder of a run or a sweep; on a file system without locks, which is said, nobody is kept out.

    Raises:
        SettingError: another process works there.
    """
    from datasets.files import flock  # with HDF5, which a check of the command line does not wait for

    with (folder / LOCK).open("a") as handle:
        try:
            flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reject(f"run={folder}: another process works there", "wait until it ended, or start a run of its own")
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process works in a run's folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # there are no locks here
        return False
    finally:
        os.close(handle)
