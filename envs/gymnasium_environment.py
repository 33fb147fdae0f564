"""Runs environments of gymnasium as ours: actions in [-1, 1], float32, episodes of one length.

The library's own wrappers scale actions and round observations, its own vector steps the
environments one after another.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TransformAction, TransformObservation

from envs.calls import check_action, check_open, draws, horizon_of
from envs.family_table import FAMILIES
from envs.gymnasium_tasks import make_environment
from envs.registry import Task, domain_spec
from envs.reset_options import EpisodeDraws


class FixedLength(gymnasium.Wrapper):
    """Runs one environment of gymnasium in episodes of T steps, which truncate and never terminate.

    Attributes:
        task: names the environment; a member of its family, if it is a hidden task.
        action_repeat: environment steps for which each action is held.
    """

    def __init__(
        self, task: Task, action_repeat: int, horizon: int, render_mode: str | None
    ) -> None:
        """Makes the environment; see `envs.make_vec` for the arguments."""
        super().__init__(_in_float32(_in_unit_range(make_environment(task.name, render_mode))))
        self.task, self.action_repeat = task, action_repeat
        self._needed, self._elapsed = horizon * action_repeat, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode."""
        self._elapsed = 0
        return self.env.reset(seed=seed, options=options)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Holds an action in [-1, 1] for `action_repeat` steps, whose rewards are summed.

        Raises:
            ValueError: the environment ended the episode before its time.
        """
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward if not self.task.params else self._hidden_reward(observation))
            self._elapsed += 1
            if (terminated or truncated) and self._elapsed < self._needed:
                self._raise_ended("terminated" if terminated else "was truncated")
        return observation, total, False, self._elapsed == self._needed, {}

    def _hidden_reward(self, observation: np.ndarray) -> np.ndarray:
        """Computes the reward of a member of a family, as relabelling does."""
        params = {key: np.array(value) for key, value in self.task.params.items()}
        return FAMILIES[self.task.name].reward(observation.astype(np.float64), **params)

    def _raise_ended(self, how: str) -> None:
        raise ValueError(
            f"task {self.task.id!r}: an episode {how} after {self._elapsed} of {self._needed} "
            "steps; allowed: environments whose episodes end by max_episode_steps alone. Register "
            "yours so (gymnasium's MuJoCo bodies: terminate_when_unhealthy=False)"
        )


def _in_unit_range(environment: gymnasium.Env) -> gymnasium.Env:
    """Spreads actions of [-1, 1] over the environment's own range.

    Gymnasium's own wrapper does so too, but cannot be pickled.
    """
    space = environment.action_space
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    unit = gymnasium.spaces.Box(-1, 1, space.shape, space.dtype)
    return TransformAction(environment, partial(_spread, space, middle, half), unit)


def _spread(
    space: gymnasium.spaces.Box, middle: np.ndarray, half: np.ndarray, action: np.ndarray
) -> np.ndarray:
    # Rounding may lead beyond the range, and environments may refuse what is no member of it.
    return np.clip(middle + half * action, space.low, space.high).astype(space.dtype)


def _in_float32(environment: gymnasium.Env) -> gymnasium.Env:
    """Rounds observations; gymnasium's own wrapper warns that it rounds their bounds."""
    space = environment.observation_space
    with np.errstate(over="ignore"):  # a bound beyond float32 is none
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    rounded = gymnasium.spaces.Box(low, high, dtype=np.float32)
    return TransformObservation(environment, _rounded, rounded)


def _rounded(observation: np.ndarray) -> np.ndarray:  # a lambda could not be pickled
    return np.asarray(observation, np.float32)


class FixedLengthVector(SyncVectorEnv):
    """Runs many environments of one of gymnasium's ids, as `envs.make_vec` returns them.

    Attributes:
        tasks: of each environment; members of a family in the current episodes.
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
        self.horizon = horizon_of(tasks[0], action_repeat, horizon)
        make = partial(FixedLength, tasks[0], action_repeat, self.horizon, render_mode)
        super().__init__([make] * len(tasks), autoreset_mode=AutoresetMode.DISABLED)
        self.action_repeat, self._draws = action_repeat, EpisodeDraws(tasks, seed)
        self.tasks = self._draws.tasks
        self._over = np.zeros(len(tasks), bool)  # whose episode has ended

    def __copy__(self) -> FixedLengthVector:
        """Copies deeply; see `VectorEnvironment.__copy__`."""
        return copy.deepcopy(self)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts episodes; see `VectorEnvironment.reset`.

        Raises:
            ValueError: options that do not fit the task, a wrong mask or seed.
            gymnasium.error.ResetNeeded: a mask in the first reset leaves some out.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        check_open(self.closed)
        mask, seeds = self._draws.reset(seed, options)
        self.tasks = self._draws.tasks
        for environment, task in zip(self.envs, self.tasks, strict=True):
            environment.task = task
        observation, _ = super().reset(seed=seeds, options={"reset_mask": mask})
        self._over &= ~mask
        return observation, self._info(mask, observation)

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
        check_open(self.closed)
        actions = np.asarray(actions)
        check_action(actions.astype(np.float64), self.action_space.shape)
        if self._over.any():
            raise gymnasium.error.ResetNeeded(
                f"an episode lasts {self.horizon} steps: call reset before this step"
            )
        observation, reward, terminated, self._over, _ = super().step(actions)
        info = self._info(np.ones(self.num_envs, bool), observation)
        return observation, reward, terminated, self._over.copy(), info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Draws the current states; see `VectorEnvironment.render`."""
        return super().render() if draws(self.closed, self.render_mode) else None

    def _info(self, mask: np.ndarray, observation: np.ndarray) -> dict[str, Any]:
        size = domain_spec(self.tasks[0].domain).physics  # all of an observation, or nothing
        return {"physics": observation[:, :size].astype(np.float64), "_physics": mask}
