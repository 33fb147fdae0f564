"""Makes a file that is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Makes a file beside `path`, which takes its place at the end; after an error it is gone.

    Args:
        path: of the file, which keeps what it holds until then.

    Yields:
        the path to write to. Each process has its own, since several may write one file.

    Raises:
        OSError: it cannot be written; the error names `path`, which a full disk alone does not.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise
