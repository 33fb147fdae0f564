"""Puts a legend below a figure, in as many columns as its labels leave room for."""

from __future__ import annotations

from experiments.reports.pyplot import plt

_SIZE = 8  # points
_CHARACTER = 0.6 * _SIZE / 72  # inches; wider than most letters of the font
_HANDLE = 0.55  # inches, with the space around a column


def legend_below(figure: plt.Figure) -> None:
    """Draws one legend for all panels of a figure with a constrained layout.

    A label that several panels have is there once, and no label is clipped.
    """
    drawn = {}  # curves by their labels
    for axis in figure.axes:
        drawn |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    widest = max(map(len, drawn)) * _CHARACTER + _HANDLE
    columns = max(1, min(len(drawn), int(figure.get_figwidth() / widest)))
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=columns, fontsize=_SIZE)
