"""Names the files that every run's folder holds, reads and writes JSON, and locks a folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"
"""Every setting of the run."""

PROVENANCE = "provenance.json"
"""The commit, versions, command, seeds and machine of the run."""

LOCK = "lock"
"""Locked (flock) by the process that works in the folder."""


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Writes facts as JSON: after a kill the file is whole, or it is as it was before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(facts, indent=2) + "\n")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the facts that `write_json` left, or an empty dict if there are none."""
    try:
        facts = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # ValueError: the file is no JSON, or no text
        return {}
    return facts if isinstance(facts, dict) else {}


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes while the block runs.

    On a file system without locks, one warning line is printed and nobody is kept out.

    Raises:
        ValueError: another process works in the folder.
    """
    # Imported here: this brings HDF5, which the check of a command line does not wait for.
    from datasets.locks import flock

    with (folder / LOCK).open("a") as handle:
        try:
            flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"run={folder}: another process works there\n"
                "  allowed: wait until it ended, or start a run of its own"
            ) from None
        yield


def is_locked(folder: Path) -> bool:
    """Returns whether a process works in a folder."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # the file system has no locks
        return False
    finally:
        os.close(handle)
