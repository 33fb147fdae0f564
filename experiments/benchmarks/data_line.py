"""Defines one measurement of suite `data`."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """Holds one measurement.

    Attributes:
        group: what kind of work was measured.
        item: what was measured.
        value: the figure.
        unit: unit of the figure.
        at_least: what the figure must reach, or None if it is only reported.
    """

    group: str
    item: str
    value: float
    unit: str
    at_least: float | None = None

    def text(self) -> str:
        """Returns the measurement as a line for a terminal."""
        verdict = ""
        if self.at_least is not None:
            reached = "yes" if self.value >= self.at_least else "NO"
            verdict = f"  (at least {self.at_least:g}: {reached})"
        return f"{self.group:12} {self.item:58} {self.value:10.4g} {self.unit}{verdict}"
