"""Defines one check of suite `faults`, and the promises that it tries on whole runs."""

from __future__ import annotations

from typing import NamedTuple

STOP = "A run that is told to stop saves its state first."
KILL = "A kill costs only the steps since the last checkpoint."
FULL_DISK = "A full disk is reported and harms no earlier checkpoint."
SAME_SEED = "The same seed gives the same result."
TRIED = (STOP, KILL, FULL_DISK, SAME_SEED)
"""Sentences of `docs/promises.md`."""


class Check(NamedTuple):
    """Holds the outcome of one check.

    Attributes:
        promise: sentence of the promise; empty if the check measures a cost.
        check: what was tried.
        passed: how many tries went well.
        tries: number of tries.
        figure: a measured number, or None.
        unit: unit of the figure.
        at_most: limit of the figure, or None.
    """

    promise: str
    check: str
    passed: int
    tries: int
    figure: float | None = None
    unit: str = ""
    at_most: float | None = None

    def line(self) -> str:
        """Returns the check as a line for a terminal."""
        figure = "" if self.figure is None else f"   {self.figure:.3g} {self.unit}"
        limit = "" if self.at_most is None else f" (at most {self.at_most:g})"
        what = f"{self.promise} {self.check}".strip()
        return f"{self.passed:4} of {self.tries:4}  {what}{figure}{limit}"


def limited(check: str, figure: float, unit: str, at_most: float) -> Check:
    """Returns a check without a promise: whether a figure is at most a limit."""
    return Check("", check, int(figure <= at_most), 1, figure, unit, at_most)
