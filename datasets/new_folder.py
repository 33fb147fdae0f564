"""Makes a folder that is there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Makes a folder beside `path`, which takes its place at the end; after an error it is gone.

    Args:
        path: of no folder, or of an empty one.

    Yields:
        the folder to fill.

    Raises:
        OSError: it cannot be written.
        ValueError: another process makes it.
    """
    path = Path(path).resolve()  # where it is a link, the link stays
    partial = path.with_name(f".{path.name}.part")
    partial.mkdir(parents=True, exist_ok=True)
    held = os.open(partial, os.O_RDONLY)
    try:
        if not _lock(held, partial):
            raise ValueError(f"{path}: another process makes it; wait until that has ended")
        try:
            for left in partial.iterdir():  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> bool:
    """Locks an open folder until it is closed; returns whether nobody else has it or moved it."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return folder.is_dir() and os.path.samestat(os.fstat(held), folder.stat())
