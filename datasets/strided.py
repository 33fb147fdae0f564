"""A store seen at coarser steps: each action held for several steps, and trajectories cut short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.store import Store, Trajectories
from envs import Task


class Strided:
    """Trajectories of a store as an agent meets them that holds each action for `action_repeat` steps.

    A step is `action_repeat` steps of the store: the observation is that of the first, the reward the sum, and the action the
    mean of theirs. That is what happened where the data were collected with this very action repeat, and an approximation of
    it where actions varied within a step.

    Attributes:
        episodes, observation_size, action_size: those of the store.
        lengths: (E,) steps T of each trajectory.
    """

    def __init__(self, store: Store, action_repeat: int = 1, horizon: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            store: whole trajectories.
            action_repeat: steps of the store in one.
            horizon: steps of a trajectory from its start; None takes all that are there.

        Raises:
            ValueError: a trajectory is too short.
        """
        whole = store.lengths // action_repeat
        shortest = int(whole.min())
        if shortest < (horizon or 1):
            raise ValueError(
                f"data.action_repeat={action_repeat} with data.horizon={horizon} needs trajectories of at least "
                f"{action_repeat * (horizon or 1)} steps; the shortest has {int(store.lengths.min())}"
            )
        self._store, self._repeat = store, action_repeat
        self.lengths = whole if horizon is None else np.full_like(whole, horizon)
        self.episodes, self.observation_size, self.action_size = store.episodes, store.observation_size, store.action_size

    def load(self, indices: Sequence[int] | np.ndarray) -> Trajectories:
        """See `Store.load`."""
        observation, action = self._store.load(indices)
        steps = int(self.lengths[np.asarray(indices)[0]]) if len(indices) else 0
        observation = observation[:, : steps * self._repeat : self._repeat]
        if self._repeat == 1:
            return Trajectories(observation, action[:, :steps])
        blocks = self._blocks(action, steps)
        # A held action stays what it was to the last bit; the mean of equals may round.
        held = (blocks == blocks[:, :, :1]).all(axis=2)
        return Trajectories(observation, np.where(held, blocks[:, :, 0], blocks.mean(axis=2)))

    def rewards(self, task: str | Task, indices: Sequence[int] | np.ndarray | None = None, mode: str = "exorl") -> np.ndarray:
        """See `Store.rewards`: sums over each step, (k, T) float32."""
        reward = self._store.rewards(task, indices, mode)
        steps = int(self.lengths[0 if indices is None else np.asarray(indices)[0]])
        return self._blocks(reward, steps).sum(axis=2, dtype=np.float64).astype(np.float32)

    def relabel(self, tasks: Sequence[str | Task], mode: str = "exorl", progress: bool = True) -> None:
        """See `Store.relabel`."""
        self._store.relabel(tasks, mode, progress)

    def _blocks(self, x: np.ndarray, steps: int) -> np.ndarray:
        """(k, T of the store, ...) -> (k, steps, action_repeat, ...)."""
        return x[:, : steps * self._repeat].reshape(len(x), steps, self._repeat, *x.shape[2:])
