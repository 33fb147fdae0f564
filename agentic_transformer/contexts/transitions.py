"""Makes batches of single transitions, for learners that read no context."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.tokens import TokenLayout
from agentic_transformer.random_streams import stream


class Transitions(NamedTuple):
    """Holds a batch of B transitions; observations are normalized and rewards scaled."""

    observation: np.ndarray
    """(B, O)."""
    action: np.ndarray
    """(B, A)."""
    reward: np.ndarray
    """(B,)."""
    next_observation: np.ndarray
    """(B, O), after the action."""


class TransitionLoader:
    """Draws transitions uniformly from all trajectories under all tasks, held in memory."""

    def __init__(self, data: RelabelledDataset, layout: TokenLayout, batch: int, seed: int) -> None:
        """Reads the trajectories.

        Args:
            data: trajectories and rewards.
            layout: its normalizer scales observations and rewards.
            batch: transitions per step.
            seed: seed of all draws.
        """
        self._data, self._normalizer, self._batch, self._seed = data, layout.normalizer, batch, seed
        every = np.arange(data.store.episodes)
        observation, self._action = data.store.load(every)
        last = data.store.last_observation(every)
        # (E, T + 1, O): an episode ends by a time limit, so its last step has a successor too.
        self._observation = np.concatenate([observation, last[:, None]], axis=1)

    def __call__(self, step: int) -> Transitions:
        """Returns the transitions of a training step, a function of the seed and the step alone."""
        rng = stream("transitions", self._seed, step)
        counts = (len(self._data.returns), *self._action.shape[:2])
        task, episode, time = (rng.integers(count, size=self._batch) for count in counts)  # (B,)
        reward = self._data.rewards(task, episode, time)

        def observed(time: np.ndarray) -> np.ndarray:  # (B,) -> (B, O)
            seen = self._data.tell(self._observation[episode, time], task)
            return self._normalizer.normalize(seen).astype(np.float32)

        return Transitions(
            observation=observed(time),
            action=self._action[episode, time],
            reward=self._normalizer.scale_reward(reward).astype(np.float32),
            next_observation=observed(time + 1),
        )
