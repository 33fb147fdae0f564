"""Draws returns against context; nothing here touches an environment or a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports.condition_looks import LOOKS, Look
from experiments.reports.curves import (
    MARKERS,
    doubling_axis,
    draw_anchors,
    draw_curve,
    from_to,
    interval_lengths,
    is_beyond_training,
    make_room,
)
from experiments.reports.legends import save_with_legend
from experiments.reports.pyplot import plt
from experiments.reports.return_table import ENOUGH_UNITS, at_longest, with_context

COLUMNS = 2
"""Panels beside each other: at 900 pixels of width their words are still legible."""


def return_vs_context(
    summary: pd.DataFrame, path: Path, anchors: pd.DataFrame | None = None
) -> None:
    """Draws return against the number of trajectories, two panels in a row, task by task.

    The first panel shows the n-th attempt's return, which is what a context is worth. The second
    shows the best of n attempts, which rises for any policy that varies, so controls stand beside
    it. A task with goals has two more: the share of units that have found their goal, and the
    repeat miss rate, without points of fewer than `ENOUGH_UNITS` rollouts. A dotted line is the
    best trajectory in the data. Where contexts are longer than in training, the background is
    shaded.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`.
        path: path of the PNG.
        anchors: published returns, see `experiments.reports.anchors`; dashed in the first panels.
    """
    tasks, looks = summary["task"].unique(), _looks(summary)
    panels_of = {task: _panels(summary[summary["task"] == task]) for task in tasks}
    lines = {task: -(-len(panels) // COLUMNS) for task, panels in panels_of.items()}
    size = (4.7 * COLUMNS, 3.7 * sum(lines.values()) + 1.2)
    figure, grid = plt.subplots(
        sum(lines.values()), COLUMNS, figsize=size, squeeze=False, layout="constrained"
    )
    free = iter(grid.flat)
    for task, panels in panels_of.items():
        all_axes = [next(free) for _ in range(lines[task] * COLUMNS)]
        axes, unused = all_axes[: len(panels)], all_axes[len(panels) :]
        for axis in unused:
            axis.set_visible(False)
        rows = summary[summary["task"] == task]
        for axis, (column, title, label) in zip(axes, panels, strict=True):
            _curves(axis, _shown(rows, column), "trajectories", _interval_columns(column), looks)
            doubling_axis(axis, rows["trajectories"])
            named = title if len(tasks) == 1 else f"{task}: {title}"
            axis.set_title(named, fontsize=10)
            axis.set(xlabel="n, the n-th attempt", ylabel=label)
            if label.startswith("share"):
                axis.set_ylim(-0.03, 1.03)
        of_returns = [axis for axis in axes if axis.get_ylabel().startswith("return")]
        for axis in of_returns:
            _best_of_the_data(axis, rows)
        if anchors is not None:
            draw_anchors(axes[0], anchors[anchors["task"] == task])
        lows, highs = zip(*(axis.get_ylim() for axis in of_returns), strict=True)
        for axis in of_returns:
            axis.set_ylim(min(lows), max(highs))
        for axis in axes:
            _beyond_training(axis, rows)
        _steps_axis(axes[0], rows)
    rollouts, seeds = (from_to(summary[column]) for column in ("units", "seeds"))
    # What the interval is over, see `statistics.interval`.
    over = (
        f"{rollouts} rollouts, one seed" if seeds == "1" else f"{seeds} seeds ({rollouts} rollouts)"
    )
    named = f"{tasks[0]}: " if len(tasks) == 1 else ""
    figure.suptitle(f"{named}mean and 95% interval over {over}", fontsize=10)
    save_with_legend(figure, path)


def _best_of_the_data(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """Draws the mean of the best returns in the data, if it is known, with room around it."""
    best = rows["best_return"].mean()
    if np.isfinite(best):
        axis.axhline(
            best, color="#222222", linewidth=1, linestyle=(0, (1, 2)), label="best of the data"
        )
        make_room(axis, [best])


def _panels(summary: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Returns the first column, the title and the label of each panel that has something to show.

    The columns of the two ends of an interval are found by `_interval_columns`.
    """
    panels = [
        ("mean", "return of the n-th attempt", "return (sum of rewards)"),
        ("best_mean", "best of n attempts (paper protocol)", "return (sum of rewards)"),
        ("found", "found (half of the best return)", "share of rollouts"),
        (
            "repeat_miss_rate",
            f"repeat miss rate (points of {ENOUGH_UNITS} rollouts or more)",
            "share of what is tried",
        ),
    ]
    return [panel for panel in panels if _has_curve(summary, panel[0])]


def _has_curve(summary: pd.DataFrame, column: str) -> bool:
    """Returns whether a panel of this column would show something.

    A repeat miss rate is shown where the attempts in their own context have more than one point.
    """
    shown = _shown(summary, column).dropna(subset=column)
    if column != "repeat_miss_rate":
        return not shown.empty
    own = shown[shown["condition"] == "own"]
    return own.groupby("agent")["trajectories"].nunique().max() > 1


def _shown(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Returns the rows of a summary whose figure comes from enough rollouts to be drawn.

    A rollout has no repeat miss rate before its first miss, after its goal is found, and where an
    attempt tries no goal. So at later attempts few rollouts have one.
    """
    return rows[rows["repeat_miss_units"] >= ENOUGH_UNITS] if column == "repeat_miss_rate" else rows


def _interval_columns(column: str) -> tuple[str, str, str]:
    """Returns a column with those of its interval: mean, low, high or found, found_low, ..."""
    prefix = column.removesuffix("mean").rstrip("_")
    ends = (f"{prefix}_low", f"{prefix}_high") if prefix else ("low", "high")
    return (column, *ends)


def agents(summary: pd.DataFrame, path: Path) -> None:
    """Draws agents side by side, one panel per task, one line per agent.

    The figure shows the return of each one's last attempt, at its largest number of trajectories.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`.
        path: path of the PNG.
    """
    names = list(summary["agent"].unique())
    tasks = summary["task"].unique()
    size = (5.5 * len(tasks) + 1.5, 0.42 * len(names) + 1.8)
    figure, axes = plt.subplots(
        1, len(tasks), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        rows = at_longest(summary[summary["task"] == task])
        conditions = rows["condition"].nunique()
        for index, (condition, points) in enumerate(rows.groupby("condition", sort=False)):
            name, colour, marker, _ = LOOKS[condition]
            # The intervals of one agent lie below each other within its band, not over each other.
            offset = 0.6 * (index - (conditions - 1) / 2) / conditions
            heights = [names.index(agent) + offset for agent in points["agent"]]
            axis.errorbar(
                points["mean"],
                heights,
                xerr=interval_lengths(points),
                fmt=marker or "|",
                color=colour,
                markersize=5,
                label=name,
            )
        axis.set(
            title=f"{task}: attempt {from_to(rows['trajectories'])}",
            xlabel="return, mean and 95% interval",
        )
        axis.grid(axis="x", alpha=0.25)
        for index in range(0, len(names), 2):
            axis.axhspan(index - 0.5, index + 0.5, color="#000000", alpha=0.05, linewidth=0)
        axis.tick_params(axis="y", length=0)  # a name belongs to its band, not to a height
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)  # the first agent on top
    save_with_legend(figure, path)


def return_vs_tokens(summary: pd.DataFrame, path: Path) -> None:
    """Draws the n-th attempt's return against the tokens in its context, one panel per task.

    Agents whose tokens differ share the axis. Hollow points lie beyond the training length.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`, with
            `context_tokens`; conditions without a context are left out.
        path: path of the PNG.
    """
    grown = with_context(summary)
    tasks, looks = grown["task"].unique(), _looks(grown)
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 4.4), squeeze=False, layout="constrained"
    )
    for axis, task in zip(grid[0], tasks, strict=True):
        rows = grown[grown["task"] == task]
        hollow = is_beyond_training(rows)
        _curves(axis, rows, "context_tokens", _interval_columns("mean"), looks, hollow)
        first = rows.loc[rows["context_tokens"] > 0, "context_tokens"].min()
        axis.set_xscale("symlog", linthresh=first)
        axis.set(
            title=task,
            xlabel="tokens in the context of the n-th attempt",
            ylabel="return of the n-th attempt",
        )
    note = "mean and 95% interval; hollow: beyond the training length"
    save_with_legend(figure, path, note)


def _steps_axis(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """Adds a scale on top: steps in the context of the n-th attempt, if contexts grow."""
    grown = rows[rows["context_steps"] > 0]
    if grown.empty:
        return
    one = (grown["context_steps"] / (grown["trajectories"] - 1)).max()
    longest = grown["context_steps"].max()  # a window may keep contexts short
    above = axis.twiny()
    above.set(xscale=axis.get_xscale(), xlabel="steps in the context")
    ticks = axis.get_xticks()
    above.set_xticks(ticks, [f"{min((n - 1) * one, longest):,.0f}" for n in ticks], fontsize=7)
    above.set_xlim(axis.get_xlim())  # only now: ticks outside of it would widen it
    above.minorticks_off()


def _looks(summary: pd.DataFrame) -> dict[tuple[str, str], Look]:
    """Returns the look of each agent and condition, the same in all panels."""
    looks = {}
    for condition, rows in summary.groupby("condition", sort=False):
        agents = rows["agent"].unique()
        for index, agent in enumerate(agents):
            look = LOOKS[condition]
            if len(agents) > 1:  # baselines of one kind
                marker = MARKERS[index % len(MARKERS)]
                look = look._replace(name=f"{look.name}: {agent}", marker=marker)
            looks[agent, condition] = look
    return looks


def _curves(
    axis: plt.Axes,
    rows: pd.DataFrame,
    over: str,
    columns: tuple[str, str, str],
    looks: dict[tuple[str, str], Look],
    hollow: pd.Series | None = None,
) -> None:
    """Draws a curve with its band per agent and condition.

    Args:
        axis: where to draw.
        rows: of a summary.
        over: column of the horizontal axis.
        columns: columns of the curve and the two ends of the band.
        looks: of each agent and condition.
        hollow: whether the marker of a row is hollow; None: of no row.
    """
    for who, curve in rows.groupby(["agent", "condition"], sort=False):
        curve = curve.sort_values("trajectories")
        draw_curve(axis, curve, over, looks[who], columns, hollow)
    axis.grid(alpha=0.25)


def _beyond_training(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """Shades the attempts whose context is longer than it ever was in training."""
    beyond = rows.loc[is_beyond_training(rows), "trajectories"]
    if len(beyond):
        right = rows["trajectories"].max() * 1.1
        axis.axvspan(beyond.min() - 0.5, right, color="#000000", alpha=0.05, linewidth=0)
        axis.text(
            right,
            axis.get_ylim()[0],
            "beyond the training length ",
            ha="right",
            va="bottom",
            fontsize=7,
            color="#555555",
        )
        axis.set_xlim(right=right)
