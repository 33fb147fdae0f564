"""Draws progress bars, or prints plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0


def progress_bar(
    label: str, items: Iterable | None = None, *, unit: str, show: bool, **options: Any
) -> tqdm:
    """Makes a bar that is redrawn twice a second.

    In a file it would be one line of many kilobytes: without a terminal there is a line every 5
    seconds and one at the end.

    Args:
        label: stands before the bar.
        items: what to iterate over; None for a bar that is updated by hand.
        unit: of what is counted; bytes, `B`, and environment steps, `step`, are written with k, M
            and so on.
        show: whether to draw it.
        **options: of tqdm.
    """
    scale = unit in ("B", "step")
    options = options | {"unit": unit, "unit_scale": scale, "disable": not show}
    if sys.stderr.isatty():
        return tqdm(items, label, mininterval=0.5, **options)
    # Without columns there is no bar, only its numbers.
    return _Lines(items, label, mininterval=0.5, ncols=0, **options)


class _Lines(tqdm):
    """Prints a line where tqdm would draw a bar anew, but not as often."""

    _said: float | None = None

    def refresh(self, *_: Any, **__: Any) -> bool:
        """Prints a line if the last one was long ago; the first call only starts the clock."""
        now = time.monotonic()
        if self._said is None:
            self._said = now
        elif now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            self.display()
        return True

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Prints a line, unless tqdm asks for an empty one to hide a bar."""
        if msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False

    def clear(self, *_: Any, **__: Any) -> None:
        """Leaves what is printed: there is no bar to hide before other lines."""

    def close(self) -> None:
        """Prints the last line."""
        if not self.disable:
            self.display()
            self.leave = False  # else tqdm would print it once more, and an empty one
        super().close()
