"""Opens and replaces HDF5 files, also on disks that are read-only, full or without locks."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_METADATA_BYTES = 1 << 16  # HDF5's own structures beside the data


def open_hdf5(path: Path, mode: str = "r", libver: str | None = "latest", **how: Any) -> h5py.File:
    """Opens an HDF5 file without HDF5's own locks, which some file systems lack.

    `datasets.locks` has ours. HDF5's newest format checksums the file's structure.
    """
    return h5py.File(path, mode, libver=libver, locking=False, **how)


@contextmanager
def new_hdf5(path: Path, alone: bool, **how: Any) -> Iterator[h5py.File]:
    """Opens a new file beside `path`, which takes its place at the end.

    After an error `path` is as it was, and the new file is gone.

    Args:
        path: of the file.
        alone: whether no other process writes it now, so that what a killed one left is written
            over. Otherwise each call writes a file of its own.
        **how: what else `open_hdf5` takes.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_suffix(".part" if alone else f".part{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as stream:
            _allocate(stream, 0, 0)
        with open_hdf5(partial, "w", **how) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def reserve(file: h5py.File, size: int) -> None:
    """Takes room on the disk for `size` bytes of data that come next.

    HDF5 cannot recover from a write that fails: it crashes the process when the file is closed. So
    a full disk has to be found before HDF5 writes.

    Raises:
        OSError: there is no room.
    """
    with Path(file.filename).open("r+b") as stream:
        _allocate(stream, file.id.get_filesize(), size)


def _allocate(stream: IO, start: int, size: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(stream.fileno(), start, size + size // 64 + _METADATA_BYTES)
    except OSError as error:  # a file system without this is no reason to stop
        if error.errno in _NO_ROOM:
            raise


def unwritable(path: Path, error: OSError) -> ValueError:
    """Returns the error for a cache that cannot be written: it says why, and what helps."""
    reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    return ValueError(
        f"{path.parent}: cannot be written ({reason}); "
        "data.cache=<folder> names another place for what is cached (experiments.download: cache=)"
    )
