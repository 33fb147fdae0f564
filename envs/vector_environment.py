"""Runs many gymnasium environments of one domain on one batch of physics.

Episodes all last T environment steps and truncate, never terminate. Environments that are reset
together end in the same step; otherwise a mask says which of them start again. None starts by
itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from envs import registry, rendering
from envs.batch import Batch
from envs.calls import check_action, check_open, draws, horizon_of
from envs.domain import load_domain
from envs.registry import Task
from envs.reset_options import EpisodeDraws
from envs.rewards import Rewards

RENDER_MODES = ("rgb_array",)


class VectorEnvironment(VectorEnv):
    """Runs environments of one domain.

    A copy, or what comes back from pickle, goes on independently, as the original would.

    Attributes:
        tasks: what each environment rewards in this episode; a family draws a member at every
            reset.
        action_repeat: environment steps for which each action is held.
        horizon: steps of an episode.
    """

    metadata = {
        "render_modes": list(RENDER_MODES),
        "render_fps": 30,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        tasks: Sequence[Task],
        seed: int | None,
        action_repeat: int = 1,
        horizon: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Builds the environments; see `envs.make_vec` for the arguments."""
        self.num_envs, self.render_mode = len(tasks), render_mode
        self._domain, self._spec = tasks[0].domain, registry.spec(tasks[0])
        self.action_repeat = action_repeat
        self.horizon = horizon_of(tasks[0], action_repeat, horizon)
        self._set_spaces()
        self._draws = EpisodeDraws(tasks, seed)
        self.tasks = self._draws.tasks
        self._observe = load_domain(self._domain).observe
        self._batch = Batch(self._domain, self._behaviours())
        self._elapsed: np.ndarray | None = None  # steps of each episode; None before the first

    def _set_spaces(self) -> None:
        box, batch_space = gymnasium.spaces.Box, gymnasium.vector.utils.batch_space
        observation = box(-np.inf, np.inf, (self._spec.observation,), np.float32)
        action = box(-1.0, 1.0, (self._spec.action,), np.float32)
        self.single_observation_space, self.single_action_space = observation, action
        self.observation_space = batch_space(observation, self.num_envs)
        self.action_space = batch_space(action, self.num_envs)

    def __copy__(self) -> VectorEnvironment:
        """Copies deeply: half of a simulation cannot be shared."""
        return copy.deepcopy(self)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode in every environment, or in those of a mask.

        Args:
            seed: of environment 0, counting up; or one for each. None goes on with the streams in
                use.
            options: `{"task": name}` (a member of the family) or its parameters, such as
                `{"goal": (x, y)}`, for all; `{"tasks": members}`, one for each; otherwise families
                draw. `{"reset_mask": mask}`, (environments,) bool: only these start, the others
                stay where they are.

        Returns:
            observations of all environments, and `{"physics": of all, "_physics": which started}`.

        Raises:
            ValueError: options that do not fit the task, a wrong mask or seed.
            gymnasium.error.ResetNeeded: a mask in the first reset leaves some out.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        check_open(self.closed)
        mask, _ = self._draws.reset(seed, options)
        self.tasks = self._draws.tasks
        self._rewards = Rewards(self.tasks)
        self._batch.start(self._behaviours(), self._draws.starts, mask)
        self._elapsed = np.where(mask, 0, 0 if self._elapsed is None else self._elapsed)
        return self._observations(), self._info(mask)

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Holds an action for `action_repeat` environment steps, whose rewards are summed.

        Args:
            action: (environments, action size) in [-1, 1].

        Raises:
            ValueError: an action of another shape, or one that is not finite.
            gymnasium.error.ResetNeeded: an episode is over.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        check_open(self.closed)
        action = np.asarray(action, dtype=np.float64)
        check_action(action, self.action_space.shape)
        if self._elapsed is None or (self._elapsed >= self.horizon).any():
            raise gymnasium.error.ResetNeeded(
                f"an episode lasts {self.horizon} steps: call reset before this step; if only some "
                "episodes are over, with options={'reset_mask': truncated}"
            )
        reward = np.zeros(self.num_envs)
        for _ in range(self.action_repeat):
            self._batch.step(action)
            reward += self._rewards(self._batch.readings, action)
        self._elapsed += 1
        truncated = self._elapsed == self.horizon
        if truncated.any():
            self._batch.check(truncated)
        info = self._info(np.ones(self.num_envs, bool))
        return self._observations(), reward, np.zeros(self.num_envs, bool), truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Draws the current states as (height, width, 3) uint8 each, if `render_mode` asks for it.

        Raises:
            RuntimeError: this machine cannot draw; one line says why.
            gymnasium.error.ResetNeeded: there is no state before the first `reset`.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        if not draws(self.closed, self.render_mode):
            return None
        if self._elapsed is None:
            raise gymnasium.error.ResetNeeded("nothing to render yet: call reset before render")
        states = zip(self.tasks, self._batch.physics, strict=True)
        return tuple(rendering.render(task, state[None])[0] for task, state in states)

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the simulations; `close` calls it."""
        self._batch.close()
        del self._batch

    def _observations(self) -> np.ndarray:
        return self._observe(self._batch.readings).astype(np.float32)

    def _info(self, mask: np.ndarray) -> dict[str, Any]:
        # As gymnasium's vectors have it, `_physics` says for which environments `physics` is new.
        return {"physics": self._batch.physics.copy(), "_physics": mask}

    def _behaviours(self) -> list[str]:
        return [task.behaviour for task in self.tasks]
