"""Lets work print to readers that may end before it, as `head` and an interrupted `tee` do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class _Output:
    """Passes on what is printed for as long as a reader, such as `head`, takes it.

    The rest goes nowhere, and the work goes on: its files do not depend on who reads.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._without_reader():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._without_reader():
            self._stream.flush()

    def close(self) -> None:
        """Leaves the stream open: absl closes it with its handler where Hydra sets up logging."""

    @contextmanager
    def _without_reader(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What is left in the stream is written once more, when Python ends at the latest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def until_readers_end() -> Iterator[None]:
    """Lets a block print to readers that may end before it."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (one and _Output(one) for one in streams)  # None: closed
    try:
        yield
    finally:
        for one in filter(None, (sys.stdout, sys.stderr)):
            one.flush()
        sys.stdout, sys.stderr = streams
