"""Shows trajectories under the rewards of tasks: one reward-free set becomes one set per task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentic_transformer.contexts.normalizer import Normalizer
from datasets import ActionRepeatView, Store, Trajectories
from envs import Task


class RelabelledDataset:
    """Holds a store of trajectories together with their rewards under every task of a list."""

    def __init__(self, store: Store | ActionRepeatView, tasks: Sequence[Task], mode: str) -> None:
        """Computes the rewards that are not on disk yet, and loads all of them.

        Args:
            store: trajectories of equal length.
            tasks: tasks of the store's domain.
            mode: "exorl" or "exact", see `datasets.relabel`.
        """
        distinct = list(dict.fromkeys(tasks))
        store.relabel(distinct, mode)
        self.store = store
        # An evaluation may repeat one task many times. Its rewards are held once.
        self._row_of_task = np.array([distinct.index(task) for task in tasks])
        # (distinct tasks, episodes, T)
        self._rewards = np.stack([store.rewards(task, mode=mode) for task in distinct])
        # (tasks, episodes)
        self.returns = self._rewards.sum(axis=-1, dtype=np.float64)[self._row_of_task]

    def load(self, task: np.ndarray, episode: np.ndarray) -> tuple[Trajectories, np.ndarray]:
        """Returns k trajectories and their rewards.

        Args:
            task: (k,) indices into the tasks.
            episode: (k,) indices into the store.

        Returns:
            The trajectories, and (k, T) rewards.
        """
        return self.store.load(episode), self._rewards[self._row_of_task[task], episode]

    def rewards(self, task: np.ndarray, episode: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns the rewards (k,) of single steps, under tasks (k,), of episodes (k,)."""
        return self._rewards[self._row_of_task[task], episode, step]

    def normalizer(self, reward_scale: float, sample: int = 1000) -> Normalizer:
        """Returns a normalizer measured on `sample` trajectories, drawn with a fixed seed.

        Args:
            reward_scale: the factor of rewards.
            sample: how many trajectories to read at most.
        """
        chosen = np.random.default_rng(0).permutation(self.store.episodes)[:sample]
        observation = self.store.load(np.sort(chosen)).observation
        rows = observation.reshape(-1, observation.shape[-1])
        return Normalizer.measure(rows, self.returns.max(), reward_scale)
