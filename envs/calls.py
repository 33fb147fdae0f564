"""Checks the arguments with which environments are made and called."""

from __future__ import annotations

from numbers import Integral

import gymnasium
import numpy as np

from envs import registry
from envs.registry import Task


def horizon_of(task: Task, action_repeat: int, horizon: int | None) -> int:
    """Returns the steps of an episode.

    Args:
        task: of the environment.
        action_repeat: the task's steps for which each action is held.
        horizon: steps of an episode; None takes as many as the task's episodes last.

    Raises:
        ValueError: they do not fit the task's episodes.
    """
    whole = registry.spec(task).length
    if isinstance(action_repeat, Integral) and action_repeat >= 1:
        steps = whole // action_repeat if horizon is None else horizon
        if isinstance(steps, Integral) and 1 <= steps * action_repeat <= whole:
            return steps
    raise ValueError(
        f"action_repeat={action_repeat} with horizon={horizon} does not fit the {whole} steps of "
        f"an episode of {task.id}; allowed: whole numbers whose product is 1 to {whole}"
    )


def check_action(action: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises a ValueError unless an action is finite and of this shape."""
    if action.shape != shape or not np.isfinite(action).all():
        alike = action.shape == shape
        got = f"{action[~np.isfinite(action)][0]} in it" if alike else f"shape {action.shape}"
        raise ValueError(f"action must be finite and of shape {shape}, got {got}")


def check_open(closed: bool) -> None:
    """Raises a ClosedEnvironmentError if an environment was closed."""
    if closed:
        raise gymnasium.error.ClosedEnvironmentError("this environment was closed: make another")


def draws(closed: bool, render_mode: str | None) -> bool:
    """Tells whether an environment's `render` draws, and warns if it does not.

    Raises:
        gymnasium.error.ClosedEnvironmentError: the environment was closed.
    """
    check_open(closed)
    if render_mode is None:
        gymnasium.logger.warn("render draws nothing without render_mode='rgb_array' in make")
    return render_mode is not None
