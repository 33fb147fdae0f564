"""Shows trajectories under the rewards of tasks: one set without rewards serves many tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentic_transformer.contexts.normalizer import Normalizer
from datasets import ActionRepeatView, Store, Trajectories
from envs import Task
from envs.registry import parameters

_REWARDS_AT_ONCE = 1 << 17
"""Rewards that are computed in one piece: about the number that a processor's cache holds."""

_MEASURED = 1000
"""Largest number of trajectories that a normalizer is measured on."""


class RelabelledDataset:
    """Holds a store of trajectories together with their returns under every task of a list.

    Rewards of steps are computed or read when they are asked for. Those of all tasks, episodes and
    steps would not fit in memory.
    """

    def __init__(
        self,
        store: Store | ActionRepeatView,
        tasks: Sequence[Task],
        mode: str,
        told: bool = False,
    ) -> None:
        """Computes the rewards that are not on disk yet, and all returns.

        Args:
            store: trajectories of equal length.
            tasks: tasks of the store's domain.
            mode: "exorl" or "exact", see `datasets.relabel`; or "stored", the rewards in the
                episodes.
            told: whether observations hold the parameters of the task, see `tell`.

        Raises:
            ValueError: rewards cannot be computed or read, see `Store.relabel`; or `told` is set
                and a task has no parameters.
        """
        # An evaluation may repeat one task many times. Its returns are computed once.
        row_of = {task: row for row, task in enumerate(dict.fromkeys(tasks))}
        store.relabel(list(row_of), mode)
        self.store, self._tasks, self._mode = store, list(tasks), mode
        self._parameters = parameters(tasks).astype(np.float32) if told else None
        # (tasks, episodes)
        self.returns = self._returns(list(row_of))[[row_of[task] for task in tasks]]

    def _returns(self, tasks: Sequence[Task]) -> np.ndarray:
        """Computes the returns of all trajectories, (tasks, episodes), piece by piece."""
        trajectories = max(1, _REWARDS_AT_ONCE // int(self.store.lengths.max()))
        tasks_at_once = min(len(tasks), trajectories)
        episodes_at_once = trajectories // tasks_at_once
        returns = np.empty((len(tasks), self.store.episodes))
        for first in range(0, self.store.episodes, episodes_at_once):
            chosen = np.arange(first, min(first + episodes_at_once, self.store.episodes))
            for start in range(0, len(tasks), tasks_at_once):
                some = slice(start, start + tasks_at_once)
                rewards = self.store.reward_table(tasks[some], chosen, self._mode)
                returns[some, chosen] = rewards.sum(axis=-1, dtype=np.float64)
        return returns

    @property
    def observation_size(self) -> int:
        """Returns the size O of an observation, with the task's parameters if `told` is set."""
        told = 0 if self._parameters is None else self._parameters.shape[1]
        return self.store.observation_size + told

    def tell(self, observation: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Appends to observations the parameters of their tasks, if `told` is set.

        Args:
            observation: (k, ..., O) observations of the store.
            task: (k,) indices into the tasks.
        """
        if self._parameters is None:
            return observation
        return append_parameters(observation, self._parameters[task])

    def load(self, task: np.ndarray, episode: np.ndarray) -> tuple[Trajectories, np.ndarray]:
        """Returns k trajectories and their rewards.

        Args:
            task: (k,) indices into the tasks.
            episode: (k,) indices into the store.

        Returns:
            The trajectories, and (k, T) rewards.
        """
        tasks = [self._tasks[index] for index in task]
        trajectories = self.store.load(episode)
        told = trajectories._replace(observation=self.tell(trajectories.observation, task))
        return told, self.store.rewards_of(tasks, episode, self._mode)

    def demonstrator(self, episode: np.ndarray) -> np.ndarray:
        """Returns the actions (k, T, A) that demonstrators would have taken in episodes (k,).

        Raises:
            ValueError: the data hold none.
        """
        return self.store.demonstrator(episode)

    def rewards(self, task: np.ndarray, episode: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns the rewards (k,) of steps (k,) of episodes (k,) under tasks (k,)."""
        tasks = [self._tasks[index] for index in task]
        return self.store.rewards_of(tasks, episode, self._mode, steps=1, first=step)[:, 0]

    def normalizer(self, reward_scale: float) -> Normalizer:
        """Returns a normalizer measured on a thousand trajectories, drawn with a fixed seed.

        Parameters that are told are scaled so that those of the tasks span -1 to 1.

        Args:
            reward_scale: the factor of rewards.
        """
        chosen = np.random.default_rng(0).permutation(self.store.episodes)[:_MEASURED]
        observation = self.store.load(np.sort(chosen)).observation
        rows = observation.reshape(-1, observation.shape[-1])
        # The largest absolute return. Rewards of our own tasks are never negative: it is the best.
        measured = Normalizer.measure(rows, np.abs(self.returns).max(), reward_scale)
        if self._parameters is None:
            return measured
        return measured.with_ranges(self._parameters.min(axis=0), self._parameters.max(axis=0))


def append_parameters(observation: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns observations (k, ..., O) with numbers (k, P) at their ends, (k, ..., O + P).

    Training and acting both call this function, so that parameters have the same place in both.
    """
    middle = observation.shape[1:-1]
    numbers = numbers.reshape(len(numbers), *(1 for _ in middle), -1)
    spread = np.broadcast_to(numbers, (len(numbers), *middle, numbers.shape[-1]))
    return np.concatenate([observation, spread], axis=-1, dtype=np.float32)
