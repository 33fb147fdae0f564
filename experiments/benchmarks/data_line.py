"""Defines one measurement of suite `data`, and writes tables of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
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


def shown(lines: Iterable[Line]) -> list[Line]:
    """Returns measurements, and prints each as it comes."""
    kept = []
    for line in lines:
        print(line.text(), flush=True)
        kept.append(line)
    return kept


def write(path: Path, header: Sequence[str], rows: Iterable[tuple]) -> None:
    """Writes rows as CSV; measurements have the header `Line._fields`."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
