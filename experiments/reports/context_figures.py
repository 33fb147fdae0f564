"""Draws what a long context is worth; nothing here touches an environment or a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports.condition_looks import LOOKS
from experiments.reports.curves import doubling_axis, interval_lengths
from experiments.reports.legends import save_with_legend
from experiments.reports.pyplot import plt
from experiments.reports.return_table import reported

_NOTE = "mean and 95% interval"


def return_vs_window(windows: pd.DataFrame, path: Path) -> None:
    """Draws the return of the n-th attempt against the window of the context.

    A panel shows one agent and task, either trained anew with each window, or trained once.

    Args:
        windows: result of `agentic_transformer.evaluation.context_statistics.summarize_windows`.
        path: path of the PNG.
    """
    windows = windows[windows["trajectories"].isin(reported(windows))]
    panels = list(windows.groupby(["agent", "task", "training"], sort=False))
    colours = _shades(windows["trajectories"])
    figure, axes = _panels(len(panels))
    for axis, ((agent, task, training), rows) in zip(axes, panels, strict=True):
        for number, curve in rows.groupby("trajectories"):
            _line(axis, curve, "window", colours[number], f"attempt {number}")
        how = "trained with its window" if training == "window" else f"trained with {training}"
        axis.set(
            title=f"{task}: {agent}, {how}",
            xlabel="window: trajectories in the context, the attempt included",
            ylabel="return of the n-th attempt",
        )
        doubling_axis(axis, rows["window"])
    save_with_legend(figure, path, _NOTE)


def retrieval(table: pd.DataFrame, path: Path) -> None:
    """Draws the return against the distance of the one informative trajectory in the context.

    Dots at the right are contexts of the same length without it.

    Args:
        table: result of `agentic_transformer.evaluation.context_statistics.summarize_retrieval`.
        path: path of the PNG.
    """
    table = table[table["trajectories"] > 1]
    panels = list(table.groupby(["agent", "task"], sort=False))
    colours = _shades(table["trajectories"])
    figure, axes = _panels(len(panels))
    for axis, ((agent, task), rows) in zip(axes, panels, strict=True):
        absent = 2 * rows["distance"].max()
        for number, curve in rows.groupby("trajectories"):
            found = curve[curve["condition"] == "retrieval"]
            _line(axis, found, "distance", colours[number], f"{number - 1} in the context")
            without = curve[curve["condition"] == "distractors"]
            _line(axis, without.assign(distance=absent), "distance", colours[number], None)
        axis.set(
            title=f"{task}: {agent}",
            xlabel="distance of the informative trajectory, in trajectories",
            ylabel="return of the next attempt",
        )
        doubling_axis(axis, rows["distance"].dropna())
        if (rows["condition"] == "distractors").any():
            ticks, labels = axis.get_xticks(), [text.get_text() for text in axis.get_xticklabels()]
            axis.set_xticks([*ticks, absent], [*labels, "none"])
    save_with_legend(figure, path, _NOTE)


def entropy(summary: pd.DataFrame, path: Path) -> None:
    """Draws the entropy of the agent's next action against the number of the attempt.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`.
        path: path of the PNG.
    """
    known = summary[summary["action_entropy"].notna()]
    known = known[known["trajectories"].isin(reported(known))]
    whats = {"first_action_entropy": "first action", "action_entropy": "mean over the attempt"}
    groups = list(known.groupby(["agent", "task"], sort=False))
    panels = [(*group, what) for group in groups for what in whats]
    figure, axes = _panels(len(panels))
    for axis, ((agent, task), rows, what) in zip(axes, panels, strict=True):
        for condition, curve in rows.groupby("condition", sort=False):
            label, colour, marker, line = LOOKS[condition]
            columns = dict(
                zip([what, f"{what}_low", f"{what}_high"], ["mean", "low", "high"], strict=True)
            )
            means = curve.drop(columns=["mean", "low", "high"]).rename(columns=columns)
            _line(axis, means, "trajectories", colour, label, marker, line)
        axis.set(
            title=f"{task}: {agent}, {whats[what]}",
            xlabel="n, the n-th attempt",
            ylabel="entropy of the action, nats",
        )
        doubling_axis(axis, rows["trajectories"])
    save_with_legend(figure, path, _NOTE)


def _panels(count: int) -> tuple[plt.Figure, np.ndarray]:
    """Returns a figure with a number of panels, at most two in a row, and the axes in use."""
    columns = min(count, 2)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(5.8 * columns, 4.4 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axis in grid.flat[count:]:
        axis.set_visible(False)
    return figure, grid.flat[:count]


def _shades(numbers: pd.Series) -> dict[int, np.ndarray]:
    """Returns a colour for each number: the larger, the darker."""
    numbers = sorted(numbers.unique())
    shades = plt.colormaps["viridis_r"](np.linspace(0.1, 1.0, len(numbers)))
    return dict(zip(numbers, shades, strict=True))


def _line(
    axis: plt.Axes,
    curve: pd.DataFrame,
    over: str,
    colour: object,
    label: str | None,
    marker: str = "o",
    line: str = "-",
) -> None:
    """Draws columns `mean`, `low` and `high` of a table over another of its columns."""
    curve = curve.sort_values(over)
    axis.errorbar(
        curve[over],
        curve["mean"],
        yerr=interval_lengths(curve),
        color=colour,
        label=label,
        marker=marker,
        linestyle=line,
        markersize=4,
        elinewidth=0.8,
    )
    axis.grid(alpha=0.25)
