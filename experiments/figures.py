"""Figures from tables and stored rollouts; nothing here touches an environment or a model."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from agentic_transformer.statistics import BASELINES

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

    First the last trajectory's return, which is what a context is worth. Then the best of n attempts, which rises for any
    policy that varies, so it is shown for all conditions or not at all. Last, where known, the share that has found its goal.

    Args:
        summary: of `agentic_transformer.statistics.summarise`.
        trained: trajectories in the training context; beyond it the background is shaded.
        path: of the PNG.
    """
    tasks = list(dict.fromkeys(summary["task"]))
    panels = [
        (("mean", "low", "high"), "return of the n-th trajectory", "return"),
        (("best_mean", "best_low", "best_high"), "best of n attempts (paper protocol)", "return"),
    ]
    if summary["found"].notna().any():
        panels.append((("found", "found_low", "found_high"), "goal found by attempt n", "share of contexts"))
    size = (5.5 * len(panels), 4.4 * len(tasks))
    figure, grid = plt.subplots(len(tasks), len(panels), figsize=size, squeeze=False, layout="constrained")
    for axes, task in zip(grid, tasks, strict=True):
        rows = summary[summary["task"] == task]
        for axis, (columns, title, label) in zip(axes, panels, strict=True):
            _curves(axis, rows, columns)
            axis.set(title=f"{task}: {title}", xlabel="n, the n-th trajectory", ylabel=label)
        axes[1].set_ylim(axes[0].get_ylim()[0], max(axis.get_ylim()[1] for axis in axes[:2]))
        axes[0].set_ylim(axes[1].get_ylim())
        for axis in axes:
            _beyond_training(axis, rows, trained)
        _steps_axis(axes[0], rows)
    lines = {line.get_label(): line for axis in grid[:, 0] for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), fontsize=8, loc="outside lower center", ncols=4)
    units, seeds = summary["units"].max(), summary["seeds"].max()
    over = f"{units} contexts" + (f" of {seeds} seeds" if seeds > 1 else ", one seed")
    figure.suptitle(f"mean and 95% bootstrap interval over {over}", fontsize=9, color="#555555")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _steps_axis(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """A second scale on top: environment steps in the context of the n-th trajectory, where contexts grow."""
    grown = rows[rows["context_steps"] > 0]
    if grown.empty:
        return
    steps = int((grown["context_steps"] / (grown["trajectories"] - 1)).iloc[0])
    above = axis.twiny()
    above.set(xscale=axis.get_xscale(), xlim=axis.get_xlim(), xlabel="steps in the context")
    ticks = axis.get_xticks()
    above.set_xticks(ticks, [f"{(int(n) - 1) * steps:,}" for n in ticks], fontsize=7)
    above.minorticks_off()


def _curves(axis: plt.Axes, rows: pd.DataFrame, columns: tuple[str, str, str]) -> None:
    middle, low, high = columns
    agents = list(rows.loc[~rows["condition"].isin(BASELINES), "agent"].unique())
    for (agent, condition), curve in rows.groupby(["agent", "condition"], sort=False):
        label, colour, marker, line = STYLES[condition]
        if len(agents) > 1 and condition not in BASELINES:
            label, marker = f"{agent}: {label}", MARKERS[agents.index(agent) % len(MARKERS)]
        curve = curve.sort_values("trajectories")
        n = curve["trajectories"]
        axis.plot(n, curve[middle], color=colour, marker=marker, linestyle=line, markersize=4, label=label)
        axis.fill_between(n, curve[low], curve[high], color=colour, alpha=0.15, linewidth=0)
    axis.set_xscale("log", base=2)
    powers = 2 ** np.arange(int(np.log2(rows["trajectories"].max())) + 1)
    axis.set_xticks(powers, [str(n) for n in powers])
    axis.grid(alpha=0.25)


def _beyond_training(axis: plt.Axes, rows: pd.DataFrame, trained: int) -> None:
    longest = rows["trajectories"].max()
    if longest > trained:
        right = longest * 1.1
        axis.axvspan(trained + 0.5, right, color="#000000", alpha=0.05, linewidth=0)
        axis.text(right, axis.get_ylim()[0], "beyond the training length ", ha="right", va="bottom", fontsize=7, color="#555555")
        axis.set_xlim(right=right)


def attempts(rollouts: Path, numbers: list[int], path: Path) -> None:
    """What the agent did: its paths in the plane, or where states are not a plane, the reward of each step.

    Args:
        rollouts: `rollouts.npz` of a run, arrays of the first few tasks: physics (tasks, attempts, T + 1, P), reward
            (tasks, attempts, T), task_id (tasks,), planar () bool, and goal (tasks, 2) where the tasks have one.
        numbers: which attempts, counted from 1.
        path: of the PNG.
    """
    with np.load(rollouts, allow_pickle=False) as stored:
        physics, reward, ids = stored["physics"], stored["reward"], stored["task_id"]
        planar, goals = bool(stored["planar"]), stored.get("goal")
    numbers = [number for number in numbers if number <= physics.shape[1]]
    limit = max(0.2, float(np.abs(physics[..., :2]).max()) * 1.05)
    size = (2.1 * len(numbers) + 0.5, 2.2 * len(ids))
    figure, grid = plt.subplots(
        len(ids), len(numbers), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for row, axes in enumerate(grid):
        for axis, number in zip(axes, numbers, strict=True):
            if planar:
                _path(axis, physics[row, number - 1], None if goals is None else goals[row], limit)
            else:
                axis.plot(reward[row, number - 1], color="#0b5fa5", linewidth=1)
            axis.set_title(f"attempt {number}: {reward[row, number - 1].sum():.2f}", fontsize=8)
            axis.tick_params(labelsize=6)
        axes[0].set_ylabel(str(ids[row]).split("(")[-1].rstrip(")"), fontsize=7)
    what = "paths of" if planar else "reward per step of"
    figure.suptitle(f"{what} the agent's own attempts in one growing context (title: return)", fontsize=9, color="#555555")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _path(axis: plt.Axes, physics: np.ndarray, goal: np.ndarray | None, limit: float) -> None:
    axis.plot(physics[:, 0], physics[:, 1], color="#0b5fa5", marker=".", markersize=3, linewidth=1)
    axis.plot(*physics[0, :2], color="#000000", marker="+")
    if goal is not None:
        axis.add_patch(plt.Circle(tuple(goal), 0.045, color="#6a9f2a", alpha=0.4, linewidth=0))
    axis.set_aspect("equal")
    axis.set(xlim=(-limit, limit), ylim=(-limit, limit))
