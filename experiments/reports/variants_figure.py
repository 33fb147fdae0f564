"""Draws the agents of several runs: a colour for each agent, a panel for each condition."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agentic_transformer.config import BASELINES
from experiments.reports.condition_looks import LOOKS, Look
from experiments.reports.curves import (
    MARKERS,
    doubling_axis,
    draw_anchors,
    draw_curve,
    from_to,
    is_beyond_training,
)
from experiments.reports.legends import save_with_legend
from experiments.reports.pyplot import plt
from experiments.reports.return_table import with_context

_LINES = ("-", "--", "-.", ":")


def variants(summary: pd.DataFrame, path: Path, anchors: pd.DataFrame | None = None) -> None:
    """Draws the return of the n-th attempt against n, a row of panels per task.

    An agent has the same colour and marker in every panel. Baselines, which have no context, are
    dotted lines in all of them. Those of one colour have markers. Hollow points have a longer
    context than their agent had in training.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`.
        path: path of the picture.
        anchors: published returns, see `experiments.reports.anchors`; dashed in the first panels.
    """
    _draw(summary, "trajectories", path, anchors)


def variants_by_tokens(summary: pd.DataFrame, path: Path) -> None:
    """Draws the same return against the tokens in the context, where there are any.

    Args:
        summary: see `variants`, with `context_tokens`.
        path: path of the picture.
    """
    _draw(with_context(summary), "context_tokens", path)


def _draw(
    summary: pd.DataFrame,
    over: str,
    path: Path,
    anchors: pd.DataFrame | None = None,
) -> None:
    """Draws the panels; `over` is the column of the horizontal axis."""
    summary = summary.assign(beyond=is_beyond_training(summary))
    baselines = summary["condition"].isin(BASELINES)
    conditions = summary.loc[~baselines, "condition"].unique()
    agents = summary.loc[~baselines, "agent"].unique()
    tasks, looks = summary["task"].unique(), _looks(summary[baselines])
    figure, grid = plt.subplots(
        len(tasks),
        len(conditions),
        figsize=(max(4.2 * len(conditions), 6) + 0.6, 3.6 * len(tasks) + 0.5 + 0.1 * len(agents)),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for axes, task in zip(grid, tasks, strict=True):
        for axis, condition in zip(axes, conditions, strict=True):
            rows = summary[summary["task"] == task]
            for index, agent in enumerate(agents):
                curve = rows[(rows["agent"] == agent) & (rows["condition"] == condition)]
                marker = MARKERS[index % len(MARKERS)]
                line = _LINES[index // 10 % len(_LINES)]
                _curve(axis, curve, over, Look(agent, f"C{index % 10}", marker, line))
            others = rows[rows["condition"].isin(BASELINES)]
            for who, curve in others.groupby(["agent", "condition"], sort=False):
                _curve(axis, curve, over, looks[who])
            if over == "trajectories":
                doubling_axis(axis, rows["trajectories"])
                axis.set_xlabel("n, the n-th attempt")
            else:
                first = rows.loc[rows[over] > 0, over].min()
                axis.set_xscale("symlog", base=2, linthresh=first)
                axis.set_xlabel("tokens in the context of the n-th attempt")
            axis.set_title(f"{task}\n{LOOKS[condition].name}", fontsize=9)
            axis.grid(alpha=0.25)
        axes[0].set_ylabel("return of the n-th attempt")
        if anchors is not None:
            draw_anchors(axes[0], anchors[anchors["task"] == task])
    note = f"mean and 95% interval; seeds: {from_to(summary['seeds'])}"
    if summary["beyond"].any():
        note += "; hollow: beyond the training length"
    save_with_legend(figure, path, note)


def _looks(baselines: pd.DataFrame) -> dict[tuple[str, str], Look]:
    """Returns the look of each baseline and its condition, the same in all panels."""
    colours = baselines["condition"].map(lambda kind: LOOKS[kind].colour)
    agents_of = baselines.groupby(colours)["agent"].unique()
    looks = {}
    for agent, kind in baselines[["agent", "condition"]].drop_duplicates().to_numpy():
        label, colour, *_ = LOOKS[kind]
        label = label if baselines["agent"].nunique() == 1 else f"{label}: {agent}"
        alike = list(agents_of[colour])
        marker = MARKERS[alike.index(agent) % len(MARKERS)] if len(alike) > 1 else ""
        looks[agent, kind] = Look(label, colour, marker, ":")
    return looks


def _curve(axis: plt.Axes, curve: pd.DataFrame, over: str, look: Look) -> None:
    """Draws one agent's curve with its band, if it has one here."""
    if len(curve):
        draw_curve(axis, curve.sort_values("trajectories"), over, look, hollow=curve["beyond"])
