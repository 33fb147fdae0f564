"""Draws curves with their bands, and holds what figures of returns share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.reports.anchors import anchor_label
from experiments.reports.condition_looks import Look
from experiments.reports.pyplot import plt

MARKERS = "osv^Dxp*"
"""Markers of agents, if a figure shows several."""


def draw_curve(
    axis: plt.Axes,
    rows: pd.DataFrame,
    over: str,
    look: Look,
    columns: tuple[str, str, str] = ("mean", "low", "high"),
    hollow: pd.Series | None = None,
    marker_size: float = 4,
) -> None:
    """Draws a curve with its band.

    Args:
        axis: where to draw.
        rows: of a table, in their order along the curve.
        over: column of the horizontal axis.
        look: of the curve; its name stands in the legend.
        columns: columns of the curve and the two ends of the band.
        hollow: whether the marker of a row is hollow, by the table's index; None: of no row.
        marker_size: in points.
    """
    middle, low, high = columns
    label, colour, marker, line = look
    style = {"color": colour, "marker": marker, "linestyle": line, "markersize": marker_size}
    axis.plot(rows[over], rows[middle], label=label, **style)
    if hollow is not None:
        points = rows[hollow[rows.index]]
        style |= {"color": "white", "linestyle": "", "markersize": marker_size / 2}
        axis.plot(points[over], points[middle], **style)
    axis.fill_between(rows[over], rows[low], rows[high], color=colour, alpha=0.15, linewidth=0)


def is_beyond_training(rows: pd.DataFrame) -> pd.Series:
    """Returns for which rows of a summary the context is longer than it ever was in training.

    A training context of n trajectories holds n - 1 before the last one. With a window
    (`eval.window`) a context may stay as short as in training for any number of attempts.
    """
    one = rows["context_steps"] / (rows["trajectories"] - 1)
    longest = one.groupby([rows["agent"], rows["task"]]).transform("max")
    return rows["context_steps"] > (rows["trained_trajectories"] - 1) * longest


def doubling_axis(axis: plt.Axes, values: pd.Series) -> None:
    """Makes the horizontal axis logarithmic, with ticks at powers of two."""
    axis.set_xscale("log", base=2)
    powers = 2 ** np.arange(int(np.log2(values.max())) + 1)
    axis.set_xticks(powers, [str(power) for power in powers])
    axis.minorticks_off()


def interval_lengths(rows: pd.DataFrame) -> np.ndarray:
    """Returns how far the intervals of a table reach below and above their means, (2, rows)."""
    return np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())


def from_to(counts: pd.Series) -> str:
    """Returns the smallest and the largest number, or the only one."""
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


def make_room(axis: plt.Axes, values: Sequence[float]) -> None:
    """Extends a vertical axis, so that lines at these values are not at its edges."""
    low, high = axis.get_ylim()
    room = 0.05 * (max([high, *values]) - min([low, *values]))
    lows, highs = [value - room for value in values], [value + room for value in values]
    axis.set_ylim(min([low, *lows]), max([high, *highs]))


def draw_anchors(axis: plt.Axes, anchors: pd.DataFrame) -> None:
    """Draws published returns of one task as dashed lines with their labels, with room around."""
    make_room(axis, anchors["return"].tolist())
    for _, anchor in anchors.iterrows():
        axis.axhline(anchor["return"], color="#555555", linewidth=0.8, dashes=(6, 3))
        axis.text(
            0.01,
            anchor["return"],
            anchor_label(anchor),
            transform=axis.get_yaxis_transform(),  # x is a share of the axis, y a return
            fontsize=6.5,
            color="#555555",
            va="bottom",
            clip_on=True,  # else a label that is too long would narrow all panels
        )
