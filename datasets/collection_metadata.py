"""Records in a buffer's `metadata.json` how its episodes were collected, and compares records.

A buffer holds the episodes of one way to collect: one task, collector, seed and so on.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

import envs
from datasets.fingerprint import fingerprint
from datasets.locks import flock
from datasets.new_file import new_file, remove_partial_files

METADATA = "metadata.json"
_LOCK = ".collecting"  # lies in a buffer; a collection holds it
_LIBRARIES = ("mujoco", "dm_control", "gymnasium", "numpy")
_RENAMED_SETTINGS = {"coarse": "timestep_scale"}  # old -> new, read for one version


def read_same_collection(folder: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Reads the record of a buffer, to which episodes are to be added.

    Half-written files of a collection that was killed are removed.

    Args:
        folder: the buffer.
        made: how they are collected: task, collector, seed, length, action_repeat and settings. Its
            settings change to what they are in a file, with lists for tuples.

    Returns:
        the record; empty where nothing was collected yet.

    Raises:
        ValueError: the buffer was collected with other settings.
    """
    made["settings"] = json.loads(json.dumps(made["settings"]))
    before = read_metadata(folder)
    check_same_collection(folder, before, made)
    remove_partial_files(folder, "episode_*.npz", METADATA)
    return before


@contextmanager
def record_collection(
    folder: Path,
    before: dict[str, Any],
    made: dict[str, Any],
    episodes: int,
    new_episodes: int,
    libraries: Sequence[str] = _LIBRARIES,
    modules: Sequence[str] = (),
    alone: bool = False,
) -> Iterator[dict[str, Any]]:
    """Writes how a buffer's episodes are collected, before the block collects them.

    Meanwhile collections with other settings are refused. Several with the same settings may run,
    unless `alone` is set.

    Args:
        folder: the buffer.
        before: what `read_same_collection` returned.
        made: what it was given.
        episodes: how many the buffer shall have.
        new_episodes: how many of them are yet to be made.
        libraries: whose versions the episodes depend on.
        modules: of the collector, where `datasets.collection` does not import it.
        alone: whether no other collection may run there.

    Yields:
        the metadata.

    Raises:
        ValueError: a collection with other settings has begun since; `alone` is set and another
            collection runs; or the buffer cannot be written.
    """
    domain = envs.task(made["task"]).domain
    with _lock_collection(folder, alone) as (lock, others):
        if not before:
            before = read_metadata(folder, in_progress=others)
            check_same_collection(folder, before, made)
        code = fingerprint(
            "datasets.collection", "envs.environment", f"envs.domains.{domain}", *modules
        )
        metadata = {
            **made,
            "actions": before.get("actions") if before else "float32",  # as executed
            "domain": domain,
            "format": "ExoRL",
            "episodes": max(episodes, before.get("episodes") or 0),
            "versions": {name: version(name) for name in libraries} | {"code": code},
        }
        _print_differences(folder, before, metadata, new_episodes)
        write_metadata(folder, metadata)
        if not alone:
            flock(lock, fcntl.LOCK_SH)
        if not before:  # another may have begun in between: a lock is released before it is shared
            check_same_collection(folder, read_metadata(folder, in_progress=True), made)
        yield metadata


def read_metadata(folder: Path, in_progress: bool = False) -> dict[str, Any]:
    """Reads the record of a buffer; empty where nothing was collected yet.

    A collection that stopped before its first episode leaves a record, which is ignored.

    Args:
        folder: the buffer.
        in_progress: whether a collection goes on; its record counts before its first episode.

    Raises:
        ValueError: the folder holds episodes of unknown origin, or the file is not what `collect`
            wrote.
    """
    path = folder / METADATA
    if not any(folder.glob("*.npz")) and not (in_progress and path.exists()):
        return {}
    if not path.exists():
        raise ValueError(
            f"buffer {folder}: holds episodes that were not collected here; choose another folder"
        )
    advice = "restore it, or choose another folder"
    try:
        metadata = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {advice}") from None
    types = {"task": str, "episodes": int | None, "settings": dict | None, "versions": dict | None}
    known = metadata if isinstance(metadata, dict) else {}
    if not all(isinstance(known.get(key), kind) for key, kind in types.items()):
        raise ValueError(f"{path}: is not what a collection writes; {advice}")
    _rename_settings(path, known)
    _name_unit(known)
    return known


def _rename_settings(path: Path, metadata: dict[str, Any]) -> None:
    settings = metadata.get("settings") or {}
    for old in settings.keys() & _RENAMED_SETTINGS.keys():
        new = _RENAMED_SETTINGS[old]
        settings[new] = settings.pop(old)
        tqdm.write(f"{path}: setting {old!r} is now called {new!r}")


def _name_unit(metadata: dict[str, Any]) -> None:
    """Adds the unit of time scales to records of earlier versions: a time scale counted actions."""
    settings = metadata.get("settings") or {}
    if "time_scales" in settings:
        held = metadata.get("action_repeat", 1) != 1
        settings.setdefault("time_scales_in", "held actions" if held else "environment steps")


def read_origin(folder: Path) -> dict[str, Any]:
    """Returns what a buffer says of its origin; empty where it says nothing, as ExoRL's sets."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / METADATA).read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def read_versions(folder: Path) -> dict[str, str]:
    """Returns the versions of libraries under which a buffer's last episodes were collected."""
    versions = read_origin(folder).get("versions")
    if not isinstance(versions, dict):  # another program's file may have the same name
        return {}
    return {key: value for key, value in versions.items() if key != "code"}


def write_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes `metadata.json` as a whole, and makes the folder.

    Raises:
        ValueError: the folder cannot be written.
    """
    with _told_if_unwritable(folder), new_file(folder / METADATA) as partial:
        partial.write_text(json.dumps(metadata, indent=2) + "\n")


@contextmanager
def _told_if_unwritable(folder: Path) -> Iterator[None]:
    """Makes a buffer's folder, and says which one it is in the errors of writing there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(
            f"buffer {folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


@contextmanager
def _lock_collection(folder: Path, alone: bool = False) -> Iterator[tuple[IO, bool]]:
    """Holds a buffer's lock, which tells other collections that this one runs; makes the folder.

    Args:
        folder: the buffer.
        alone: whether no other collection may run.

    Yields:
        the lock, and whether another collection runs. If none does, the lock is exclusive, until
        the caller shares it.

    Raises:
        ValueError: the folder cannot be written; or `alone` is set and another collection runs.
    """
    with _told_if_unwritable(folder):
        lock = (folder / _LOCK).open("a+")  # some network file systems ask for both to lock
    with lock:
        try:
            flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            others = False
        except BlockingIOError:
            if alone:
                raise ValueError(
                    f"buffer {folder}: another process collects there; wait until it has ended, or "
                    "choose another folder with data.root=<folder>"
                ) from None
            flock(lock, fcntl.LOCK_SH)  # waits until the other one has written its record
            others = True
        yield lock, others


def check_same_collection(folder: Path, before: dict[str, Any], made: dict[str, Any]) -> None:
    """Checks that new episodes are collected as those of the buffer were.

    Args:
        folder: the buffer.
        before: its record; empty where nothing was collected yet.
        made: how the new episodes are to be collected. Its settings become None if the buffer's
            record has none.

    Raises:
        ValueError: they differ; names the first difference.
    """
    if not before:
        return
    before = {"action_repeat": 1, "settings": None} | before
    if before["settings"] is None:
        tqdm.write(
            f"{folder / METADATA}: does not say with which settings its episodes were collected; "
            "they may differ from the current ones"
        )
        made["settings"] = None  # they stay unknown for the buffer as a whole
    old, new = _flattened(before), _flattened(made)
    settings = [key for key in old if key.startswith("settings.")]
    for key in dict.fromkeys([*new, *settings]):
        if old.get(key) != new.get(key):
            difference = f"{key}={old.get(key)!r}, not {new.get(key)!r}"
            raise ValueError(
                f"buffer {folder}: was collected with {difference}; "
                "choose another folder with data.root=<folder>"
            )


def _flattened(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns a record in which each of the collector's settings has a key of its own."""
    settings = {f"settings.{key}": value for key, value in (metadata["settings"] or {}).items()}
    return metadata | settings | {"settings": None}


def _print_differences(
    folder: Path, before: dict[str, Any], now: dict[str, Any], new_episodes: int
) -> None:
    """Prints how new episodes will differ from those that a buffer has, if they will."""
    if before and before.get("actions") is None:
        tqdm.write(
            f"{folder}: actions of its earlier episodes were rounded after they were executed, "
            "so that replays of them drift"
        )
    there = before.get("versions") or {}
    changed = [key for key, value in now["versions"].items() if there.get(key, value) != value]
    if changed:
        tqdm.write(
            f"{folder}: {new_episodes} more episodes are made "
            f"under another {', '.join(changed)} than those there"
        )
