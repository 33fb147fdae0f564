"""The folder of a run: unique, self-describing, and never reused by accident.

    runs/<task>/<date>-<time>-<unique>/
        config.yaml       every setting
        overrides.yaml    what was said on the command line
        provenance.json   commit, versions, command, seeds; one more entry under "resumed" for each
        time it was continued status.json       {"state": ...}: "running" from the start on,
        "finished" once the command returned, "failed" with its
                          error, "stopped" with the signal; and the step of its newest checkpoint. A
                          run that was killed stays "running". Whatever is not "finished" can be
                          resumed.
        lock              held (flock) by the process that works here, so that a run is never
        continued twice at once

A sweep has one such folder, see `sweeps`.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agentic_transformer import run_files
from agentic_transformer.config import rename_settings
from agentic_transformer.run_files import CONFIG, LOCK, PROVENANCE, is_locked
from experiments.cli import provenance
from experiments.cli.overrides import escaped
from experiments.cli.packages import is_our_word
from experiments.cli.preemption import Stopped, catch
from experiments.cli.settings import SettingError, reject, settings, shown, value_at, within

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
OVERRIDES, STATUS = "overrides.yaml", "status.json"
# What every run has, and Hydra's note of a sweep; whatever else is in a folder is somebody's work.
OWN = frozenset({CONFIG, OVERRIDES, PROVENANCE, STATUS, LOCK, "multirun.yaml"})
# Settings that may change when a run is continued: none of them touches what is learned.
FREE = (
    "run",
    "resume",
    "data.cache",
    "eval",
    "mesh",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_best",
    "train.profile",
)


def create(parent: Path) -> Path:
    """Make a new folder `<date>-<time>-<unique>` in `parent`; two processes never get the same one."""
    while True:
        folder = parent / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        with suppress(
            FileExistsError, FileNotFoundError
        ):  # the second: another process has just removed an empty parent
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder


@dataclass
class Opened:
    """The folder of a run or a sweep, and what was there before this command."""

    place: Path
    made: list[Path]
    """Folders that the command has made, the innermost first."""
    before: set[str]
    """Names of what the folder held."""

    def undo(self) -> None:
        """Remove what the command made, unless there is more than the files of every run."""
        discard(self.place, self.before)
        with suppress(OSError):  # not empty
            for folder in self.made:
                folder.rmdir()


def open_run(parent: Path, name: str, command: Any) -> Opened:
    """The folder of a run: the one `command.run` names, the one to continue, or a new one in
    `parent`.

    Args:
        parent: where new folders go.
        name: of the command.
        command: its settings.

    Raises:
        SettingError: the named folder holds another run, or there is nothing to continue.
    """
    if command.run:
        check_same(Path(command.run), command)
        return open_folder(parent, Path(command.run), command.resume)
    if not command.resume:
        return open_folder(parent, None, False)
    candidates = (
        found for found in unfinished(parent, CONFIG) if status(found).get("command") == name
    )
    matching = (found for found in candidates if _is_run_of(found, command))
    found = next(matching, None) or reject(
        f"resume=true: no unfinished run with these settings in {parent}", "run=<folder>"
    )
    return open_folder(parent, found, True)


def open_folder(parent: Path, named: Path | None, resume: bool) -> Opened:
    """Open a named folder, or a new one in `parent`.

    Args:
        parent: where new folders go.
        named: the folder that the user named, or that is continued.
        resume: whether it may hold something already.

    Raises:
        SettingError: it is no folder, cannot be made, or may not be used again.
    """
    wanted = named or parent
    missing = [folder for folder in (wanted, *wanted.parents) if not folder.exists()]
    if named is None:
        place = create(parent)
        return Opened(place, [place, *missing], set())
    _check_named(named, resume)
    try:
        named.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        reject(f"run={named}: {error.strerror}", "a place where a folder can be made")
    return Opened(named, missing, {path.name for path in named.iterdir()})


def _check_named(folder: Path, resume: bool) -> None:
    """Raise a SettingError if a folder that the user named may not be used."""
    try:
        held = any(folder.iterdir()) if folder.is_dir() else folder.exists() or folder.is_symlink()
    except OSError as error:
        reject(f"run={folder}: {error.strerror}", "a place where a folder can be made")
    if held and not folder.is_dir():
        reject(f"run={folder}: a file, not a folder", "the name of a folder")
    if held and not resume:
        holds = "a run" if (folder / STATUS).exists() else "files"
        reject(
            f"run={folder}: the folder holds {holds} already",
            "a new folder, or resume=true to continue what is there",
        )


def unfinished(parent: Path, file: str) -> list[Path]:
    """Folders in `parent` that hold `file`, are not finished and in which no process works, newest
    first.
    """
    found = parent.iterdir() if parent.is_dir() else ()
    found = [folder for folder in found if (folder / file).is_file()]
    found = [folder for folder in found if status(folder).get("state") != "finished"]
    return newest_first(folder for folder in found if not is_locked(folder))


def newest_first(folders: Iterable[Path]) -> list[Path]:
    """Run folders by when they were started."""
    return sorted(folders, key=lambda folder: status(folder).get("started", ""), reverse=True)


def _is_run_of(folder: Path, command: Any) -> bool:
    """Whether a run was started with these settings; one of another version, with others than there
    are now, was not.
    """
    try:
        return not _difference(folder, command)
    except SettingError:
        return False


def check_same(folder: Path, command: Any) -> None:
    """Raise a SettingError if the run in a folder, if there is one, was started with settings that
    learn something else.
    """
    if (folder / CONFIG).is_file() and (why := _difference(folder, command)):
        reject(f"run={folder} cannot be continued: {why}", "the settings it was started with")


def _difference(folder: Path, command: Any) -> str:
    """The first setting in which a run differs from `command` (those in FREE aside), in words;
    empty if there is none.
    """
    earlier = read_config(folder, type(command))
    for key in settings(type(command)):
        there, here = value_at(earlier, key), value_at(command, key)
        if there != here and not within(key, *FREE):
            return f"{key} is {shown(there)} there and {shown(here)} here"
    return ""


def read_config(folder: Path, command: type) -> Any:
    """The settings of a run as an instance of its command's dataclass.

    Raises:
        SettingError: the folder has no settings, or they are not this command's.
    """
    path = folder / CONFIG
    if not path.is_file():
        reject(
            f"run={folder}: no run is there ({CONFIG} is missing)",
            "a run folder of experiments.train",
        )
    if not path.stat().st_size:
        reject(f"{path} is empty", "a folder whose settings were written whole")
    try:
        kept = OmegaConf.load(path)
        rename_settings(kept, str(path))
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(command), kept))
    except (OmegaConfBaseException, YAMLError) as error:
        reject(f"{path} does not hold {command.__name__}'s settings: {str(error).splitlines()[0]}")


def facts_of(command: Any, words: list[str]) -> dict[str, Any]:
    """What a run starts with.

    Args:
        command: its settings.
        words: the command line.
    """
    seeds = {
        key: value_at(command, key)
        for key in settings(type(command))
        if key.rpartition(".")[2] == "seed"
    }
    return provenance.collect(words, seeds)


def describe(folder: Path, command: Any, overrides: list[str], facts: dict[str, Any]) -> None:
    """Write what a run is into its folder; for a run that is continued, what has changed, and one
    more entry.

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
        write_overrides(folder, overrides)
    partial = folder / f".{CONFIG}.partial"
    OmegaConf.save(OmegaConf.create(_escaped(asdict(command))), partial)
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
        bad_input = is_our_word(error)
        said = str(error) if bad_input else f"{type(error).__name__}: {error}"
        _end(folder, "failed", error=said, exit_code=2 if bad_input else 1)
        raise
    except Stopped as stopped:
        catch()
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
        print(
            f"{folder / STATUS} cannot say that the run {state}: {error}",
            file=sys.stderr,
            flush=True,
        )


def saved_step(folder: Path) -> int | None:
    """The step of a run's newest checkpoint, by its name alone; None if there is none."""
    steps = (path.name for path in (folder / CHECKPOINTS).glob("*"))
    return max((int(name) for name in steps if name.isdecimal()), default=None)


def status(folder: Path) -> dict[str, Any]:
    """The state of a run or sweep; empty if there is none."""
    return provenance.read(folder / STATUS)


def discard(folder: Path, before: set[str]) -> None:
    """Remove what a command that came to nothing added to a folder, unless it left some work in it.

    Args:
        folder: of a run or a sweep.
        before: names of what was in it before.
    """
    new = [path for path in folder.iterdir() if path.name not in before]
    files = [file for path in new for file in (path, *path.rglob("*")) if not file.is_dir()]
    if any(file.name not in OWN and file.stat().st_size for file in files):
        return
    for path in new:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_overrides(folder: Path, words: list[str]) -> None:
    """Write what was said on the command line into the folder of a run or a sweep."""
    OmegaConf.save(OmegaConf.create(words), folder / OVERRIDES)


def read_overrides(folder: Path) -> list[str]:
    """What was said on the command line; empty if nothing was written."""
    path = folder / OVERRIDES
    # Unresolved: what looks like an interpolation is part of the words.
    return (
        list(map(str, OmegaConf.to_container(OmegaConf.load(path))))
        if path.is_file() and path.stat().st_size
        else []
    )


def _escaped(value: Any) -> Any:
    """Settings in which OmegaConf finds no interpolations: those were resolved, ${x} is a name now."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(map(_escaped, value))
    return escaped(value) if isinstance(value, str) else value


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks the folder of a run or a sweep while the block runs, see `run_files.lock`.

    Raises:
        SettingError: another process works there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(run_files.lock(folder))
        except ValueError as error:
            raise SettingError(str(error)) from None
        yield
