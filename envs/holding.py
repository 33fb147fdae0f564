"""Agent steps longer than control steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from envs import registry


class HeldActions(VectorWrapper):
    """Holds each action for `repeat` control steps, whose rewards add up, and ends episodes after `steps` agent steps."""

    def __init__(self, env: VectorEnv, repeat: int, steps: int) -> None:
        """Wrap an environment of `envs.make_vec`.

        Raises:
            ValueError: an episode has fewer control steps than that.
        """
        super().__init__(env)
        length = registry.spec(env.tasks[0]).length
        if repeat * steps > length:
            raise ValueError(f"{steps} agent steps of {repeat} control steps do not fit into an episode of {length}")
        self._repeat, self._steps = repeat, steps

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """See `VectorEnvironment.reset`."""
        self._elapsed = 0
        return self.env.reset(**arguments)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """See `VectorEnvironment.step`; the observation and the physics are those of the last control step."""
        total = np.zeros(self.num_envs)
        for _ in range(self._repeat):
            observation, reward, terminated, _, info = self.env.step(action)
            total += reward
        self._elapsed += 1
        return observation, total, terminated, np.full(self.num_envs, self._elapsed >= self._steps), info
