"""Draws what an agent did in its attempts, from stored rollouts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from experiments.reports.pictures import plane_limit
from experiments.reports.pyplot import plt
from experiments.reports.return_table import return_text


def attempts(rollouts: Path, agent: str, grows: bool, numbers: list[int], path: Path) -> None:
    """Draws the agent's paths in the plane, or the reward of each step if there is no plane.

    Args:
        rollouts: path of a `rollouts.npz`; `agentic_transformer.evaluation.stored_rollouts`
            describes its arrays.
        agent: the agent's name, if there are others beside it; else empty.
        grows: whether the attempts of a row share one growing context. Those of a baseline do not.
        numbers: which attempts to show, counted from 1.
        path: path of the PNG.
    """
    with np.load(rollouts, allow_pickle=False) as stored:
        physics, reward, ids = stored["physics"], stored["reward"], stored["task_id"]
        # Rollouts of earlier versions have a goal without its radius and walls.
        names = ("goal", "radius", "tenth", "walls") if "radius" in stored else ()
        plane = {name: stored[name] for name in names if name in stored}
    numbers = [number for number in numbers if number <= physics.shape[1]]
    size = (1.9 * len(numbers) + 0.7, 2.0 * len(ids) + 0.6)
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
            if plane:
                _path(axis, physics[row, number - 1], plane, row)
            else:
                axis.plot(reward[row, number - 1], color="#0b5fa5", linewidth=1)
            earned = return_text(reward[row, number - 1].sum())
            axis.set_title(f"attempt {number}: {earned}", fontsize=10)
            axis.tick_params(labelsize=8)
        task = str(ids[row]).split("(")[-1].rstrip(")")
        # Six decimals of a parameter say no more to a reader than two.
        task = re.sub(r"(\.\d\d)\d+", r"\1", task)
        axes[0].set_ylabel(f"{task}\ny (m)" if plane else f"{task}\nreward", fontsize=8)
    for axis in grid[-1]:
        axis.set_xlabel("x (m)" if plane else "step", fontsize=8)
    if plane:
        shown = physics[:, np.array(numbers) - 1, :, :2]
        limit = plane_limit(shown, plane["goal"], plane["radius"])
        ticks = (-0.2, 0, 0.2)
        grid[0, 0].set(xlim=(-limit, limit), ylim=(-limit, limit))  # all panels share them
        grid[0, 0].set(xticks=ticks, yticks=ticks)
    row_holds = "attempts of one growing context" if grows else "attempts without a context"
    figure.suptitle(
        f"{agent}: " * bool(agent)
        + f"{row_holds} a row, each with its return"
        + ("\ndisc: full reward; dashed: a tenth of it is left" if "tenth" in plane else ""),
        fontsize=10,
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _path(axis: plt.Axes, physics: np.ndarray, plane: dict[str, np.ndarray], row: int) -> None:
    """Draws one path (T + 1, P) with its start, the goal of a row and the walls."""
    axis.plot(physics[:, 0], physics[:, 1], color="#0b5fa5", marker=".", markersize=3, linewidth=1)
    axis.plot(*physics[0, :2], color="#000000", marker="+")
    goal = tuple(plane["goal"][row])
    axis.add_patch(
        plt.Circle(goal, float(plane["radius"]), color="#6a9f2a", alpha=0.4, linewidth=0)
    )
    if "tenth" in plane:
        edge = {"fill": False, "edgecolor": "#6a9f2a", "linestyle": "--", "linewidth": 0.8}
        axis.add_patch(plt.Circle(goal, float(plane["tenth"]), **edge))
    for width, height in plane["walls"]:
        axis.add_patch(
            plt.Rectangle((-width, -height), 2 * width, 2 * height, color="#b8b0a4", linewidth=0)
        )
    axis.set_aspect("equal")
