"""A store seen at coarser steps: each action held for several steps, and trajectories cut short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.store import Store, Trajectories
from envs import Task


class ActionRepeatView:
    """Trajectories of a store as an agent meets them that holds each action for `action_repeat`
    steps.

    A step is `action_repeat` steps of the store: the observation is that of the first, the reward
    the sum, and the action the mean of theirs. That is what happened where the data were collected
    with this very action repeat, and an approximation of it where actions varied within a step.

    Attributes:
        episodes, observation_size, action_size: those of the store.
        steps: T of every trajectory.
        lengths: (E,) the same for each, as those of a store.
    """

    def __init__(self, store: Store, action_repeat: int = 1, horizon: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            store: whole trajectories.
            action_repeat: steps of the store in one.
            horizon: steps of a trajectory, from the start of each, where an evaluation begins too.
                What comes later is left out. None takes all that are there.

        Raises:
            ValueError: a trajectory is too short, or they differ in length and there is no horizon.
        """
        whole = store.lengths // action_repeat
        shortest, longest = int(whole.min()), int(whole.max())
        steps = horizon or longest
        if not 1 <= steps <= shortest:
            raise ValueError(_misfit(store.lengths, action_repeat, horizon))
        self.steps = steps
        self._store, self._repeat = store, action_repeat
        self.lengths = np.full_like(whole, self.steps)
        self.episodes, self.observation_size, self.action_size = (
            store.episodes,
            store.observation_size,
            store.action_size,
        )

    def load(self, indices: Sequence[int] | np.ndarray) -> Trajectories:
        """See `Store.load`."""
        observation, action = self._store.load(indices, self.steps * self._repeat)
        observation = observation[:, :: self._repeat]
        if self._repeat == 1:
            return Trajectories(observation, action)
        blocks = self._blocks(action)
        # A held action stays what it was to the last bit; the mean of equals may round.
        held = (blocks == blocks[:, :, :1]).all(axis=2)
        return Trajectories(observation, np.where(held, blocks[:, :, 0], blocks.mean(axis=2)))

    def rewards(
        self,
        task: str | Task,
        indices: Sequence[int] | np.ndarray | None = None,
        mode: str = "exorl",
    ) -> np.ndarray:
        """See `Store.rewards`: sums over each step, (k, T) float32."""
        reward = self._store.rewards(task, indices, mode, self.steps * self._repeat)
        return self._blocks(reward).sum(axis=2, dtype=np.float64).astype(np.float32)

    def relabel(
        self, tasks: Sequence[str | Task], mode: str = "exorl", progress: bool = True
    ) -> None:
        """See `Store.relabel`."""
        self._store.relabel(tasks, mode, progress)

    def _blocks(self, x: np.ndarray) -> np.ndarray:
        """(k, steps * action_repeat, ...) -> (k, steps, action_repeat, ...)."""
        return x.reshape(len(x), self.steps, self._repeat, *x.shape[2:])


def _misfit(lengths: np.ndarray, action_repeat: int, horizon: int | None) -> str:
    """Says why trajectories cannot be cut like this, and how they can."""
    shortest, longest = int(lengths.min()), int(lengths.max())
    have = f"{shortest} steps" if shortest == longest else f"{shortest} to {longest} steps"
    repeat = f"data.action_repeat={action_repeat}"
    if action_repeat > shortest:
        return f"{repeat}: trajectories have {have}; allowed: 1 to {shortest}"
    said = "data.horizon=" + ("null" if horizon is None else str(horizon))
    said += f" with {repeat}" if action_repeat > 1 else ""
    return f"{said}: trajectories have {have}; allowed: 1 to {shortest // action_repeat}"
