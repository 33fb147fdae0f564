"""Makes gymnasium environments of tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from envs import registry
from envs.gymnasium_environment import FixedLengthVector
from envs.gymnasium_tasks import is_gymnasium
from envs.registry import Task
from envs.vector_environment import RENDER_MODES, VectorEnvironment


def make(task: str | Task, seed: int | None = 0, render_mode: str | None = None) -> gymnasium.Env:
    """Makes one environment.

    Args:
        task: a name of `envs.tasks()`, a Task, or `gymnasium:<id>`.
        seed: of the first reset, where that gives none; None draws one. Episodes start where
            dm_control's own environment with this seed does.
        render_mode: None, or `rgb_array`, which draws as `envs.render` does.

    Raises:
        ValueError: an unknown task or render_mode, or a wrong seed.
    """
    return Environment(task, seed, render_mode)


def make_vec(
    task: str | Task | Sequence[str | Task],
    num_envs: int | None = None,
    seed: int | None = 0,
    action_repeat: int = 1,
    horizon: int | None = None,
    render_mode: str | None = None,
) -> VectorEnv:
    """Makes many environments of one domain that step together.

    Args:
        task: for all of them; or a sequence with one for each.
        num_envs: how many; for a sequence, its length.
        seed: environment i starts as `make` with seed + i does; None draws one.
        action_repeat: environment steps for which each action is held: a call of `step` makes all
            of them, and returns the sum of their rewards.
        horizon: steps of an episode; None takes as many as the task's episodes last.
        render_mode: None, or `rgb_array`: `render` returns a picture of each.

    Raises:
        ValueError: unknown tasks, tasks of several domains, a number that is not whole or differs
            from the sequence's length, more steps than an episode has, a wrong seed or render_mode.
    """
    if num_envs is not None and not isinstance(num_envs, Integral):
        raise ValueError(f"num_envs={num_envs!r}; allowed: a whole number, at least 1")
    if isinstance(task, str | Task) or not isinstance(task, Iterable):
        tasks = [registry.task(task)] * (1 if num_envs is None else num_envs)
    else:
        tasks = [registry.task(one) for one in task]
        if num_envs not in (None, len(tasks)):
            given = f"the number of tasks given, {len(tasks)}"
            raise ValueError(f"num_envs={num_envs} differs from {given}")
    if render_mode not in (None, *RENDER_MODES):
        raise ValueError(f"render_mode={render_mode!r} is unknown; allowed: None, 'rgb_array'")
    if not tasks:
        raise ValueError(f"num_envs={num_envs}: at least one environment is needed")
    domains = sorted({one.domain for one in tasks})
    if len(domains) > 1:
        found = ", ".join(domains)
        raise ValueError(f"tasks of one vector must share a domain, these are of {found}")
    vector = FixedLengthVector if is_gymnasium(domains[0]) else VectorEnvironment
    return vector(tasks, seed, action_repeat, horizon, render_mode)


class Environment(gymnasium.Env):
    """Runs one environment, as a vector of one.

    Attributes:
        action_repeat: environment steps for which each action is held.
        horizon: steps of an episode.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 30}

    def __init__(
        self,
        task: str | Task,
        seed: int | None = 0,
        render_mode: str | None = None,
    ) -> None:
        """Builds the environment; see `make` for the arguments."""
        self._vector = make_vec(task, 1, seed, render_mode=render_mode)
        self.metadata = self._vector.metadata
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode = render_mode
        self.action_repeat, self.horizon = self._vector.action_repeat, self._vector.horizon

    def __copy__(self) -> Environment:
        """Copies deeply; see `VectorEnvironment.__copy__`."""
        return copy.deepcopy(self)

    @property
    def task(self) -> Task:
        """Returns what this episode rewards."""
        return self._vector.tasks[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; see `VectorEnvironment.reset`."""
        super().reset(seed=seed)
        observation, info = self._vector.reset(seed=seed, options=options)
        return observation[0], {"physics": info["physics"][0]}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Holds an action for one environment step; see `VectorEnvironment.step`."""
        observation, reward, _, truncated, info = self._vector.step(np.asarray(action)[None])
        info = {"physics": info["physics"][0]}
        return observation[0], float(reward[0]), False, bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """Draws the current state; see `VectorEnvironment.render`."""
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Frees the simulation."""
        self._vector.close()
