"""Makes a folder that is there whole or not at all."""

from __future__ import annotations

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
    """
    path = Path(path).resolve()  # where it is a link, the link stays
    partial = path.with_name(f".{path.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
