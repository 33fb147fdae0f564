"""Stores what an agent did, so that pictures and videos can be drawn later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import envs
from agentic_transformer.agents.base import Attempt

PICTURED_TASKS = 5
"""Tasks whose attempts are stored."""


def save_rollouts(path: Path, tasks: Sequence[envs.Task], attempts: Sequence[Attempt]) -> None:
    """Stores the attempts on the first few tasks in an npz file.

    Args:
        path: path of the file; `rollout_arrays` says what it holds.
        tasks: one per environment of the batch; the first `PICTURED_TASKS` are stored.
        attempts: all attempts of one condition, in order.
    """
    np.savez_compressed(path, **rollout_arrays(tasks, attempts))


def rollout_arrays(
    tasks: Sequence[envs.Task], attempts: Sequence[Attempt]
) -> dict[str, np.ndarray]:
    """Returns the attempts on the first few tasks as arrays.

    They are physics (tasks, attempts, T + 1, P), reward (tasks, attempts, T) and task_id (tasks,).
    If states are points of a plane, there are also goal (tasks, 2), radius (), tenth () and walls
    (boxes, 2), as in `envs.top_down_view`.

    Args:
        tasks: one per environment of the batch; the first `PICTURED_TASKS` are taken.
        attempts: all attempts of one condition, in order.
    """
    tasks = tasks[:PICTURED_TASKS]
    count = len(tasks)
    arrays = {
        "physics": np.stack([attempt.physics[:count] for attempt in attempts], axis=1),
        "reward": np.stack([attempt.trajectory.reward[:count] for attempt in attempts], axis=1),
        "task_id": np.array([task.id for task in tasks]),
    }
    if (plane := envs.top_down_view(tasks[0])) is not None:
        arrays |= {
            "goal": np.array([envs.top_down_view(task).goal for task in tasks]),
            "radius": np.array(plane.radius),
            "tenth": np.array(plane.tenth),
            "walls": np.array(plane.walls).reshape(-1, 2),
        }
    return arrays
