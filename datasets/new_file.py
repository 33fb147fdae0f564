"""Makes a file that is there whole or not at all."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Makes a file beside `path`, which takes its place at the end; after an error it is gone.

    Args:
        path: of the file, which keeps what it holds until then.

    Yields:
        the path to write to. Each call has its own, since several processes may write one file,
        even on several machines or in several containers, where process ids may be equal.

    Raises:
        OSError: it cannot be written; the error names `path`, also on a full disk.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as held:
            # The lock ends with the process, however that ends: see `remove_partial_files`.
            with suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX)
            with named_errors(path):
                yield partial
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Names a file in the errors of writing to it, also in those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


def remove_partial_files(folder: Path, *names: str) -> None:
    """Removes what killed processes left of new files; those of a live process stay.

    Locks tell the two apart. On a file system without locks all files stay.

    Args:
        folder: where the files were to lie.
        names: of the files, as patterns.
    """
    for name in names:
        for partial in folder.glob(f".{name}.*.partial"):
            with suppress(OSError), partial.open("r+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                partial.unlink()
