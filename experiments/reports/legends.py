"""Puts a legend below a figure and a note above it, and writes it."""

from __future__ import annotations

from pathlib import Path

from experiments.reports.pyplot import plt

_SIZE = 8  # points
_CHARACTER = 0.6 * _SIZE / 72  # inches; wider than most letters of the font
_HANDLE = 0.55  # inches, with the space around a column


def save_with_legend(figure: plt.Figure, path: Path, note: str = "") -> None:
    """Draws one legend for all panels and a note above them; writes and closes the figure.

    Args:
        figure: with a constrained layout. A label that several panels have is in the legend once,
            and no label is clipped.
        path: path of the picture.
        note: what the figure shows, small and grey; empty: there is none.
    """
    drawn = {}  # curves by their labels
    for axis in figure.axes:
        drawn |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    widest = max(map(len, drawn)) * _CHARACTER + _HANDLE
    columns = max(1, min(len(drawn), int(figure.get_figwidth() / widest)))
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=columns, fontsize=_SIZE)
    if note:
        figure.suptitle(note, fontsize=9, color="#555555")
    figure.savefig(path, dpi=130)
    plt.close(figure)
