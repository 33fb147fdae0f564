"""Draws what an agent did in its attempts, from stored rollouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.reports.pyplot import plt


def attempts(rollouts: Path, numbers: list[int], path: Path) -> None:
    """Draws the agent's paths in the plane, or the reward of each step if there is no plane.

    Args:
        rollouts: path of a `rollouts.npz`; `agentic_transformer.evaluation.stored_rollouts`
            describes its arrays.
        numbers: which attempts to show, counted from 1.
        path: path of the PNG.
    """
    with np.load(rollouts, allow_pickle=False) as stored:
        physics, reward, ids = stored["physics"], stored["reward"], stored["task_id"]
        # Rollouts of earlier versions have a goal without its radius and walls.
        plane = (
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
            if plane:
                _path(
                    axis,
                    physics[row, number - 1],
                    plane["goal"][row],
                    plane["radius"],
                    plane["walls"],
                )
            else:
                axis.plot(reward[row, number - 1], color="#0b5fa5", linewidth=1)
            axis.set_title(f"attempt {number}: {reward[row, number - 1].sum():.2f}", fontsize=8)
            axis.tick_params(labelsize=6)
        axes[0].set_ylabel(str(ids[row]).split("(")[-1].rstrip(")"), fontsize=7)
    what = "paths of" if plane else "reward per step of"
    if plane:
        limit = max(0.2, float(np.abs(physics[:, np.array(numbers) - 1, :, :2]).max()) * 1.05)
        grid[0, 0].set(xlim=(-limit, limit), ylim=(-limit, limit))  # all panels share them
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
    """Draws one path (T + 1, P) with its start, the goal and the walls."""
    axis.plot(physics[:, 0], physics[:, 1], color="#0b5fa5", marker=".", markersize=3, linewidth=1)
    axis.plot(*physics[0, :2], color="#000000", marker="+")
    axis.add_patch(plt.Circle(tuple(goal), float(radius), color="#6a9f2a", alpha=0.4, linewidth=0))
    for width, height in walls:
        axis.add_patch(
            plt.Rectangle((-width, -height), 2 * width, 2 * height, color="#b8b0a4", linewidth=0)
        )
    axis.set_aspect("equal")
