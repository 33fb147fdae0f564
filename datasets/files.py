"""Files that several processes share, on disks that may be read-only, full or without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

import h5py
from tqdm import tqdm

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_METADATA = 1 << 16  # bytes of HDF5's own beside the rows


def flock(file: IO, operation: int) -> bool:
    """Locks an open file as `fcntl.flock` does; on a file system without locks says so and goes on.

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
        _say_once(
            f"{Path(file.name).parent}: cannot be locked ({error.strerror}): let no two processes work there"
        )
        return False
    return True


@lru_cache
def _say_once(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Holds the right to write `path` among processes, or with others the right to open it for
    reading.

    Yields:
        whether it is held: there may be no locks, or no place for one.

    Raises:
        ValueError: it is to be written, but its folder cannot be.
    """
    lock = path.with_suffix(".lock")
    try:
        if not shared:
            path.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("r" if shared else "w")
    except OSError as error:
        if not shared:
            raise unwritable(path, error) from error
        stream = None  # nobody ever wrote here
    if stream is None:
        yield False
        return
    with stream:
        yield flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def open_hdf5(path: Path, mode: str = "r") -> h5py.File:
    """Opens an HDF5 file without HDF5's own locks, which some file systems lack; `locked` is ours.

    Its newest format has checksums over the file's structure.
    """
    return h5py.File(path, mode, libver="latest", locking=False)


@contextmanager
def new_hdf5(path: Path, partial: Path) -> Iterator[h5py.File]:
    """Opens a new file `partial`, which becomes `path` at the end; after any error nothing is left
    of it.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with partial.open("wb") as stream:
            _allocate(stream, 0, 0)
        with open_hdf5(partial, "w") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def reserve(file: h5py.File, size: int) -> None:
    """Takes room on the disk for `size` bytes of rows that come next.

    HDF5 cannot recover from a write that fails: it crashes the process when the file is closed.

    Raises:
        OSError: there is no room.
    """
    with Path(file.filename).open("r+b") as stream:
        _allocate(stream, file.id.get_filesize(), size)


def _allocate(stream: IO, start: int, size: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(stream.fileno(), start, size + size // 64 + _METADATA)
    except OSError as error:  # a file system without this is no reason to stop
        if error.errno in _NO_ROOM:
            raise


def unwritable(path: Path, error: OSError) -> ValueError:
    """Returns what to raise where a cache cannot be written: why, and what helps."""
    reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    return ValueError(
        f"{path.parent}: cannot be written ({reason}); data.cache=<folder> names another place for what is cached"
    )
