"""Runs environments of gymnasium as ours run: actions in [-1, 1], float32, episodes of a length.

The library's own wrappers scale actions and round observations, its own vector steps the
environments one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RescaleAction, TransformObservation

from envs import registry
from envs.gymnasium_tasks import make_environment
from envs.registry import Task
from envs.reset_options import SEEDS, chosen_members, seeds_of, split_reset_mask

_NO_PHYSICS = np.empty(0)


class FixedLength(gymnasium.Wrapper):
    """Runs one environment of gymnasium in episodes of T steps, which truncate and never terminate.

    Attributes:
        task: names the environment.
        action_repeat: environment steps for which each action is held.
        horizon: T, steps of an episode.
    """

    def __init__(
        self,
        task: Task,
        seed: int | None = 0,
        render_mode: str | None = None,
        action_repeat: int = 1,
        horizon: int | None = None,
    ) -> None:
        """Makes the environment; see `envs.make` and `envs.make_vec` for the arguments."""
        whole = registry.spec(task).length
        self.task, self.action_repeat = task, action_repeat
        self.horizon = horizon or whole // action_repeat
        if not 1 <= self.horizon * action_repeat <= whole:
            raise ValueError(
                f"action_repeat={action_repeat} with horizon={horizon} does not fit the {whole} "
                f"steps of an episode of {task.id}"
            )
        environment = make_environment(task.name, render_mode)
        # Actions of [-1, 1] are spread over the environment's own range.
        unit = np.ones_like(environment.action_space.low)
        super().__init__(_in_float32(RescaleAction(environment, -unit, unit)))
        self._first_seed, self._needed, self._elapsed = seed, self.horizon * action_repeat, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; the first one without a seed starts from the constructor's."""
        seed = self._first_seed if seed is None else seed
        self._first_seed, self._elapsed = None, 0
        observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {"physics": _NO_PHYSICS}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Holds an action in [-1, 1] for `action_repeat` steps, whose rewards are summed.

        Raises:
            ValueError: the environment ended the episode before its time.
            gymnasium.error.ResetNeeded: the episode is over.
        """
        if self._elapsed >= self._needed:
            raise gymnasium.error.ResetNeeded(
                f"an episode lasts {self.horizon} steps: call reset before this step"
            )
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            self._elapsed += 1
            if (terminated or truncated) and self._elapsed < self._needed:
                self._raise_ended("terminated" if terminated else "was truncated")
        over = self._elapsed == self._needed
        return observation, total, False, over, {"physics": _NO_PHYSICS}

    def _raise_ended(self, how: str) -> None:
        raise ValueError(
            f"task {self.task.id!r}: an episode {how} after {self._elapsed} of {self._needed} "
            "steps; allowed: environments whose episodes end by max_episode_steps alone. Register "
            "yours so (gymnasium's MuJoCo bodies: terminate_when_unhealthy=False)"
        )


def _in_float32(environment: gymnasium.Env) -> gymnasium.Env:
    """Rounds observations; gymnasium's own wrapper warns that it rounds their bounds."""
    space = environment.observation_space
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    rounded = gymnasium.spaces.Box(low, high, dtype=np.float32)
    return TransformObservation(environment, lambda x: np.asarray(x, np.float32), rounded)


class FixedLengthVector(SyncVectorEnv):
    """Runs many environments of one of gymnasium's ids, as `envs.make_vec` returns them.

    Attributes:
        tasks: of each environment, all the same.
        action_repeat: environment steps for which each action is held.
        horizon: T, steps of an episode.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        seed: int | None,
        action_repeat: int = 1,
        horizon: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Makes the environments; see `envs.make_vec` for the arguments."""

        def make() -> FixedLength:
            return FixedLength(tasks[0], None, render_mode, action_repeat, horizon)

        super().__init__([make] * len(tasks), autoreset_mode=AutoresetMode.DISABLED)
        self.tasks = list(tasks)
        self.action_repeat, self.horizon = action_repeat, self.envs[0].horizon
        if seed is None:
            seed = int(np.random.default_rng().integers(SEEDS - len(tasks)))
        self._first_seeds = seeds_of(seed, len(tasks))
        self._over = np.zeros(len(tasks), bool)  # whose episode has ended

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes; see `VectorEnvironment.reset`. Options can name no other task.

        Raises:
            ValueError: options that do not fit the task, a wrong mask or seed.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._check_open()
        mask, options = split_reset_mask(options, self.num_envs)
        chosen_members(self.tasks, mask, options)
        seeds = self._first_seeds if seed is None else seeds_of(seed, self.num_envs)
        self._first_seeds = [None] * self.num_envs
        observation, _ = super().reset(seed=seeds, options={"reset_mask": mask})
        self._over &= ~mask
        return observation, self._info(mask)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps each environment; see `FixedLength.step`.

        Args:
            actions: (environments, action size) in [-1, 1].

        Raises:
            ValueError: an action of another shape, or one that is not finite; or an environment
                ended its episode before its time.
            gymnasium.error.ResetNeeded: an episode is over.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._check_open()
        expected = self.action_space.shape
        actions = np.asarray(actions)
        if actions.shape != expected or not np.isfinite(actions).all():
            raise ValueError(
                f"action must be finite and of shape {expected}, got shape {actions.shape}"
            )
        if self._over.any():
            raise gymnasium.error.ResetNeeded(
                f"an episode lasts {self.horizon} steps: call reset before this step"
            )
        observation, reward, terminated, self._over, _ = super().step(actions)
        info = self._info(np.ones(self.num_envs, bool))
        return observation, reward, terminated, self._over.copy(), info

    def _info(self, mask: np.ndarray) -> dict[str, Any]:
        return {"physics": np.empty((self.num_envs, 0)), "_physics": mask}

    def _check_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError(
                "this environment was closed: make another"
            )
