"""Figures from tables and stored rollouts; nothing here touches an environment or a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from agentic_transformer.evaluation.statistics import BASELINES

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first: there may be no screen)

STYLES = {
    "own": ("own trajectories in context", "#0b5fa5", "o", "-"),
    "dataset": ("dataset trajectories in context", "#6a9f2a", "^", "-"),
    "no_context": ("control: empty context", "#d1495b", "s", "--"),
    "foreign": ("control: context of another task", "#e09f3e", "v", "--"),
    "dt": ("baseline: Decision Transformer (n = 1)", "#777777", "D", ":"),
    "bc": ("baseline: behaviour cloning", "#8d6a9f", "P", ":"),
    "bc10": ("baseline: behaviour cloning of the best", "#5b3a75", "X", ":"),
    "td3_bc": ("baseline: TD3+BC", "#1b998b", "*", ":"),
    "bayes_greedy": ("ceiling: Bayes-greedy search", "#222222", "", "-."),
    "posterior_sampling": ("ceiling: posterior sampling", "#222222", "", ":"),
}
"""Of each condition: label, colour, marker, line."""

MARKERS = "osv^Dxp*"
"""Of each agent, where a figure shows several."""


def return_vs_context(summary: pd.DataFrame, trained: int, path: Path) -> None:
    """Return against the number of trajectories, one row of panels per task.

    First the last trajectory's return, which is what a context is worth. Then the best of n
    attempts, which rises for any policy that varies, so it is shown for all conditions or not at
    all. Last, where known, the share that has found its goal, and how much of what the others try
    is tried again.

    Args:
        summary: of `agentic_transformer.evaluation.statistics.summarise`.
        trained: trajectories in the training context; beyond it the background is shaded.
        path: of the PNG.
    """
    tasks = list(dict.fromkeys(summary["task"]))
    panels = [
        (("mean", "low", "high"), "return of the n-th trajectory", "return"),
        (("best_mean", "best_low", "best_high"), "best of n attempts (paper protocol)", "return"),
    ]
    if summary["found"].notna().any():
        panels.append(
            (
                ("found", "found_low", "found_high"),
                "found (half of the best return)",
                "share of contexts",
            )
        )
    if summary["again"].notna().any():
        panels.append(
            (
                ("again", "again_low", "again_high"),
                "tried, and missed before",
                "share of what is tried",
            )
        )
    size = (5.5 * len(panels), 4.4 * len(tasks) + 0.5)
    drawn = {}  # curves by label; tasks may have different ones
    figure, grid = plt.subplots(
        len(tasks), len(panels), figsize=size, squeeze=False, layout="constrained"
    )
    for axes, task in zip(grid, tasks, strict=True):
        rows = summary[summary["task"] == task]
        for axis, (columns, title, label) in zip(axes, panels, strict=True):
            _curves(axis, rows, "trajectories", columns)
            axis.set_xscale("log", base=2)
            powers = 2 ** np.arange(int(np.log2(rows["trajectories"].max())) + 1)
            axis.set_xticks(powers, [str(n) for n in powers])
            axis.set(title=f"{task}: {title}", xlabel="n, the n-th trajectory", ylabel=label)
            if label.startswith("share"):
                axis.set_ylim(-0.03, 1.03)
        axes[1].set_ylim(axes[0].get_ylim()[0], max(axis.get_ylim()[1] for axis in axes[:2]))
        axes[0].set_ylim(axes[1].get_ylim())
        for axis in axes:
            _beyond_training(axis, rows, trained)
        _steps_axis(axes[0], rows)
        drawn |= dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    units, seeds = summary["units"].max(), summary["seeds"].max()
    over = f"{units} contexts" + (f" of {seeds} seeds" if seeds > 1 else ", one seed")
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=len(panels), fontsize=8)
    figure.suptitle(f"mean and 95% bootstrap interval over {over}", fontsize=9, color="#555555")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def agents(summary: pd.DataFrame, path: Path) -> None:
    """Agents side by side: the last trajectory's return at the most trajectories, one panel per
    task, one line per agent.

    Args:
        summary: of `agentic_transformer.evaluation.statistics.summarise`.
        path: of the PNG.
    """
    names = list(summary["agent"].unique())
    tasks = list(summary["task"].unique())
    size = (5.5 * len(tasks) + 1.5, 0.42 * len(names) + 1.8)
    figure, axes = plt.subplots(
        1, len(tasks), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        rows = summary[summary["task"] == task]
        rows = rows[rows["trajectories"] == rows["trajectories"].max()]
        conditions = list(rows["condition"].unique())
        for index, (condition, points) in enumerate(rows.groupby("condition", sort=False)):
            label, colour, marker, _ = STYLES[condition]
            # Intervals of one agent stand below each other, not over each other.
            offset = 0.5 * (index - (len(conditions) - 1) / 2) / len(conditions)
            heights = [names.index(agent) + offset for agent in points["agent"]]
            error = np.abs(points[["low", "high"]].to_numpy().T - points["mean"].to_numpy())
            axis.errorbar(
                points["mean"],
                heights,
                xerr=error,
                fmt=marker or "|",
                color=colour,
                markersize=5,
                label=label,
            )
        axis.set(
            title=f"{task}: trajectory {rows['trajectories'].max()}",
            xlabel="return, mean and 95% bootstrap interval",
        )
        axis.grid(axis="x", alpha=0.25)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def return_vs_tokens(summary: pd.DataFrame, trained: int, path: Path) -> None:
    """The last trajectory's return against the tokens before it, a panel per task: what a context
    is worth at its price.

    Agents whose tokens differ share the axis. Hollow points lie beyond the training length.

    Args:
        summary: of `agentic_transformer.evaluation.statistics.summarise`, with `context_tokens`;
            conditions without a context are left out.
        trained: trajectories in the training context.
        path: of the PNG.
    """
    longest = summary.groupby(["agent", "task", "condition"])["context_tokens"].transform("max")
    grown = summary[longest > 0]
    tasks = list(dict.fromkeys(grown["task"]))
    drawn = {}  # curves by label
    figure, grid = plt.subplots(
        1, len(tasks), figsize=(5.5 * len(tasks), 4.4), squeeze=False, layout="constrained"
    )
    for axis, task in zip(grid[0], tasks, strict=True):
        rows = grown[grown["task"] == task]
        _curves(axis, rows, "context_tokens", ("mean", "low", "high"), trained)
        first = rows.loc[rows["context_tokens"] > 0, "context_tokens"].min()
        axis.set_xscale("symlog", linthresh=first)
        axis.set(
            title=task,
            xlabel="tokens in the context of the n-th trajectory",
            ylabel="return of the n-th trajectory",
        )
        drawn |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(
        "mean and 95% bootstrap interval; hollow: beyond the training length",
        fontsize=9,
        color="#555555",
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def training_curves(logs: Sequence[tuple[str, str, pd.DataFrame]], path: Path) -> None:
    """The loss by step, a panel per agent and task, a line per run; below it that of trajectories'
    first steps, by their place.

    Args:
        logs: of each run its agent's name, its task and its `metrics.csv`.
        path: of the PNG.
    """
    agents, tasks = (list(dict.fromkeys(names)) for names in list(zip(*logs, strict=True))[:2])
    size = (4.5 * len(agents), 5.5 * len(tasks))
    figure, grid = plt.subplots(
        2 * len(tasks), len(agents), figsize=size, squeeze=False, layout="constrained"
    )
    for axis in grid.flat:
        axis.grid(alpha=0.25)
    for agent, task, log in logs:
        above, below = grid[2 * tasks.index(task) :, agents.index(agent)][:2]
        above.plot(log["step"], log["loss"], color="#0b5fa5", linewidth=1)
        above.set(title=f"{task}: {agent}", ylabel="loss")
        places = [column for column in log if column.startswith("first_step_loss")]
        seen = below.get_legend_handles_labels()[1]
        for column, shade in zip(places, np.linspace(0.9, 0.2, len(places)), strict=True):
            place = column.removeprefix("first_step_loss").lstrip("_")
            label = f"trajectory {place} of a row" if place else "all trajectories"
            label = (
                "_" * (label in seen) + label
            )  # one entry for all runs: matplotlib leaves out what begins so
            below.plot(
                log["step"], log[column], color=plt.cm.viridis(shade), linewidth=1, label=label
            )
        if places:
            below.legend(fontsize=7)
            below.set(xlabel="training step", ylabel="loss of first steps")
    for axis in grid.flat:
        if not axis.lines:
            axis.axis("off")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _steps_axis(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """A second scale on top: environment steps in the context of the n-th trajectory, where
    contexts grow.
    """
    grown = rows[rows["context_steps"] > 0]
    if grown.empty:
        return
    steps = int((grown["context_steps"] / (grown["trajectories"] - 1)).iloc[0])
    above = axis.twiny()
    above.set(xscale=axis.get_xscale(), xlim=axis.get_xlim(), xlabel="steps in the context")
    ticks = axis.get_xticks()
    above.set_xticks(ticks, [f"{(int(n) - 1) * steps:,}" for n in ticks], fontsize=7)
    above.minorticks_off()


def _curves(
    axis: plt.Axes,
    rows: pd.DataFrame,
    over: str,
    columns: tuple[str, str, str],
    trained: float = np.inf,
) -> None:
    """A curve per agent and condition of three columns (middle, low, high) over another; hollow
    where n is above `trained`.
    """
    middle, low, high = columns
    agents = list(rows.loc[~rows["condition"].isin(BASELINES), "agent"].unique())
    for (agent, condition), curve in rows.groupby(["agent", "condition"], sort=False):
        label, colour, marker, line = STYLES[condition]
        if len(agents) > 1 and condition not in BASELINES:
            label, marker = f"{agent}: {label}", MARKERS[agents.index(agent) % len(MARKERS)]
        curve = curve.sort_values("trajectories")
        x, beyond = curve[over], curve["trajectories"] > trained
        axis.plot(
            x, curve[middle], color=colour, marker=marker, linestyle=line, markersize=4, label=label
        )
        axis.plot(
            x[beyond],
            curve.loc[beyond, middle],
            color="white",
            marker=marker,
            linestyle="",
            markersize=2,
        )
        axis.fill_between(x, curve[low], curve[high], color=colour, alpha=0.15, linewidth=0)
    axis.grid(alpha=0.25)


def _beyond_training(axis: plt.Axes, rows: pd.DataFrame, trained: int) -> None:
    longest = rows["trajectories"].max()
    if longest > trained:
        right = longest * 1.1
        axis.axvspan(trained + 0.5, right, color="#000000", alpha=0.05, linewidth=0)
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


def attempts(rollouts: Path, numbers: list[int], path: Path) -> None:
    """What the agent did: its paths in the plane, or where states are not a plane, the reward of
    each step.

    Args:
        rollouts: `rollouts.npz` of a run, arrays of the first few tasks: physics (tasks, attempts,
            T + 1, P), reward (tasks, attempts, T), task_id (tasks,), and where states are a plane,
            goal (tasks, 2), radius () and walls (boxes, 2), as in `envs.top_down_view`.
        numbers: which attempts, counted from 1.
        path: of the PNG.
    """
    with np.load(rollouts, allow_pickle=False) as stored:
        physics, reward, ids = stored["physics"], stored["reward"], stored["task_id"]
        # Rollouts of earlier versions say of a goal neither its radius nor its walls.
        places = (
            {name: stored[name] for name in ("goal", "radius", "walls")}
            if "radius" in stored
            else {}
        )
    numbers = [number for number in numbers if number <= physics.shape[1]]
    size = (2.1 * len(numbers) + 0.5, 2.2 * len(ids))
    figure, grid = plt.subplots(
        len(ids),
        len(numbers),
        figsize=size,
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for row, axes in enumerate(grid):
        for axis, number in zip(axes, numbers, strict=True):
            if places:
                _path(
                    axis,
                    physics[row, number - 1],
                    places["goal"][row],
                    places["radius"],
                    places["walls"],
                )
            else:
                axis.plot(reward[row, number - 1], color="#0b5fa5", linewidth=1)
            axis.set_title(f"attempt {number}: {reward[row, number - 1].sum():.2f}", fontsize=8)
            axis.tick_params(labelsize=6)
        axes[0].set_ylabel(str(ids[row]).split("(")[-1].rstrip(")"), fontsize=7)
    what = "paths of" if places else "reward per step of"
    if places:
        limit = max(0.2, float(np.abs(physics[:, np.array(numbers) - 1, :, :2]).max()) * 1.05)
        grid[0, 0].set(xlim=(-limit, limit), ylim=(-limit, limit))  # shared by all
    figure.suptitle(
        f"{what} the agent's own attempts in one growing context (title: return)",
        fontsize=9,
        color="#555555",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _path(
    axis: plt.Axes, physics: np.ndarray, goal: np.ndarray, radius: float, walls: np.ndarray
) -> None:
    axis.plot(physics[:, 0], physics[:, 1], color="#0b5fa5", marker=".", markersize=3, linewidth=1)
    axis.plot(*physics[0, :2], color="#000000", marker="+")
    axis.add_patch(plt.Circle(tuple(goal), float(radius), color="#6a9f2a", alpha=0.4, linewidth=0))
    for width, height in walls:
        axis.add_patch(
            plt.Rectangle((-width, -height), 2 * width, 2 * height, color="#b8b0a4", linewidth=0)
        )
    axis.set_aspect("equal")
