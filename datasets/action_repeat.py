"""Shows a store's trajectories at longer steps, in which an action is held for several steps."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from datasets.trajectory_store import Store, Trajectories
from envs import Task


class ActionRepeatView:
    """Shows trajectories as an agent sees them that holds each action for `action_repeat` steps.

    A step is `action_repeat` steps of the store: it has the observation of the first, the sum of
    their rewards, and the mean of their actions. That is exact where the data were collected with
    this action repeat, and an approximation where actions varied within a step.

    Attributes:
        episodes: number of trajectories E.
        observation_size: numbers of an observation.
        action_size: numbers of an action.
        steps: T of every trajectory.
        lengths: (E,), T for each trajectory, as a store has it.
        cached, digest: as a store has them.
    """

    def __init__(self, store: Store, action_repeat: int = 1, horizon: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            store: whole trajectories.
            action_repeat: steps of the store in one step.
            horizon: steps of a trajectory, counted from its start, where an evaluation starts too.
                Later steps are left out. None takes all steps.

        Raises:
            ValueError: a number is not whole, a trajectory is too short, or they differ in length
                and there is no horizon.
        """
        # A repeat below 1 fits no trajectory, as one of more steps than it has.
        fits = isinstance(action_repeat, Integral) and action_repeat > 0
        whole = store.lengths // action_repeat if fits else 0 * store.lengths
        shortest, longest = int(whole.min()), int(whole.max())
        steps = longest if horizon is None else horizon
        if not isinstance(steps, Integral) or not 1 <= steps <= shortest:
            raise ValueError(_misfit(store.lengths, action_repeat, horizon))
        self.steps = steps
        self._store, self._repeat = store, action_repeat
        self.lengths = np.full_like(whole, self.steps)
        self.episodes, self.cached, self.digest = store.episodes, store.cached, store.digest
        self.observation_size, self.action_size = store.observation_size, store.action_size

    def load(self, indices: Sequence[int] | np.ndarray) -> Trajectories:
        """Reads trajectories of T longer steps; see `Store.load`."""
        observation, action = self._store.load(indices, self.steps * self._repeat)
        observation = observation[:, :: self._repeat]
        return Trajectories(observation, self._held(action))

    def last_observation(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the observation after the last longer step; see `Store.last_observation`."""
        return self._store.last_observation(indices, self.steps * self._repeat)

    def demonstrator(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the demonstrator's actions of longer steps; see `Store.demonstrator`."""
        return self._held(self._store.demonstrator(indices, self.steps * self._repeat))

    def rewards(
        self,
        task: str | Task,
        indices: Sequence[int] | np.ndarray | None = None,
        mode: str = "exorl",
    ) -> np.ndarray:
        """Returns the sum of rewards of each longer step, (k, T) float32; see `Store.rewards`."""
        return self._summed(self._store.rewards(task, indices, mode, self.steps * self._repeat))

    def reward_table(
        self,
        tasks: Sequence[Task],
        indices: Sequence[int] | np.ndarray | None = None,
        mode: str = "exorl",
    ) -> np.ndarray:
        """Returns the result of `rewards` for each task, (tasks, k, T) float32."""
        steps = self.steps * self._repeat
        return self._summed(self._store.reward_table(tasks, indices, mode, steps))

    def rewards_of(
        self,
        tasks: Sequence[Task],
        indices: Sequence[int] | np.ndarray,
        mode: str = "exorl",
        steps: int | None = None,
        first: int | np.ndarray = 0,
    ) -> np.ndarray:
        """Returns (k, T) rewards of longer steps, each trajectory's of its own task.

        See `Store.rewards_of`.
        """
        steps = self.steps if steps is None else steps
        steps, first = steps * self._repeat, np.asarray(first) * self._repeat
        return self._summed(self._store.rewards_of(tasks, indices, mode, steps, first))

    def relabel(
        self, tasks: Sequence[str | Task], mode: str = "exorl", progress: bool = True
    ) -> None:
        """Makes sure that rewards of `tasks` are kept; see `Store.relabel`."""
        self._store.relabel(tasks, mode, progress)

    def _summed(self, reward: np.ndarray) -> np.ndarray:
        # (..., steps * action_repeat) -> (..., steps)
        blocks = reward.reshape(*reward.shape[:-1], -1, self._repeat)
        return blocks.sum(axis=-1, dtype=np.float64).astype(np.float32)

    def _held(self, action: np.ndarray) -> np.ndarray:
        # (k, steps * action_repeat, A) -> (k, steps, A)
        if self._repeat == 1:
            return action
        blocks = action.reshape(len(action), self.steps, self._repeat, -1)
        # A held action keeps every bit, which the mean of equal numbers may not, as it rounds.
        held = (blocks == blocks[:, :, :1]).all(axis=2)
        return np.where(held, blocks[:, :, 0], blocks.mean(axis=2))


def _misfit(lengths: np.ndarray, action_repeat: int, horizon: int | None) -> str:
    """Says why trajectories cannot be cut to the horizon, and which horizons are possible."""
    shortest, longest = int(lengths.min()), int(lengths.max())
    have = f"{shortest} steps" if shortest == longest else f"{shortest} to {longest} steps"
    repeat = f"data.action_repeat={action_repeat}"
    allowed = "allowed: whole numbers, 1 to"
    if not isinstance(action_repeat, Integral) or not 1 <= action_repeat <= shortest:
        return f"{repeat}: trajectories have {have}; {allowed} {shortest}"
    setting = "data.horizon=" + ("null" if horizon is None else str(horizon))
    setting += f" with {repeat}" if action_repeat > 1 else ""
    return f"{setting}: trajectories have {have}; {allowed} {shortest // action_repeat}"
