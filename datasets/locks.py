"""Locks files among processes, also on file systems that have no locks."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from tqdm import tqdm


def flock(file: IO, operation: int) -> bool:
    """Locks an open file as `fcntl.flock` does.

    A file system without locks is no error: a line says so once, and the caller goes on.

    Returns:
        whether the lock is held.

    Raises:
        BlockingIOError: another process holds it, and `operation` has `LOCK_NB`.
    """
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        folder = Path(file.name).parent
        _print_once(
            f"{folder}: cannot be locked ({error.strerror}): let no two processes work there"
        )
        return False
    return True


def wait_for_lock(file: IO, operation: int) -> bool:
    """Locks an open file as `flock` does; a line says so if another process has to end first."""
    try:
        return flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        tqdm.write(f"{file.name}: waits for another process that holds it", file=sys.stderr)
        return flock(file, operation)


@lru_cache
def _print_once(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


@contextmanager
def write_lock(path: Path) -> Iterator[bool]:
    """Holds the right to write `path`, through a lock file beside it; makes the folder.

    Yields:
        whether it is held. It is not where the file system has no locks.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as stream:
        yield wait_for_lock(stream, fcntl.LOCK_EX)


@contextmanager
def read_lock(path: Path) -> Iterator[None]:
    """Waits until nobody writes `path`, and keeps writers out."""
    try:
        stream = path.with_suffix(".lock").open("r")
    except OSError:  # nobody ever wrote here, so nobody can hold the lock
        yield
        return
    with stream:
        wait_for_lock(stream, fcntl.LOCK_SH)
        yield
