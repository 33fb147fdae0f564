"""How often a searching agent tries again what it has missed: what its successive attempts at a
hidden task would have found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentic_transformer.evaluation.statistics import FOUND
from datasets.relabelling import relabel_many
from envs import Task


class Retries:
    """Follows a batch of agents through their successive attempts.

    An attempt tries the tasks under which it would have counted as found. What it tries in vain is
    missed; of a later attempt, the share of what it tries that had been missed before says whether
    the misses were used.
    """

    def __init__(self, tasks: Sequence[Task], best: np.ndarray, action_repeat: int) -> None:
        """Before the first attempt.

        Args:
            tasks: one per agent, not known to it; the distinct ones among them are what may be
                tried.
            best: (agents,) the best return of each task in the data.
            action_repeat: environment steps of an agent step.
        """
        index = {task: number for number, task in enumerate(tasks)}
        self._kinds, self._repeat = list(index), action_repeat
        self._threshold = FOUND * best
        self._kind_threshold = FOUND * best[list(index.values())]
        self._missed = np.zeros((len(index), len(tasks)), bool)
        self._found = np.zeros(len(tasks), bool)

    def __call__(self, physics: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """The next attempt.

        Args:
            physics: (agents, T + 1, P) its states, at agent steps: rewards in between count as
                those at their ends.
            reward: (agents, T) what it earned.

        Returns:
            (agents,) of what each tries, the share that it had missed before; NaN where nothing is
            tried, nothing was missed yet, or its task had been found.
        """
        agents, steps = reward.shape
        states = physics[:, 1:].reshape(agents * steps, -1)
        paid = relabel_many(states, self._kinds).reshape(-1, agents, steps)
        tried = (
            self._repeat * paid.sum(axis=2, dtype=np.float64) >= self._kind_threshold[:, None]
        )  # (kinds, agents)
        searching = ~self._found & self._missed.any(axis=0) & tried.any(axis=0)
        again = np.where(
            searching, (tried & self._missed).sum(axis=0) / np.maximum(tried.sum(axis=0), 1), np.nan
        )
        self._found |= reward.sum(axis=1, dtype=np.float64) >= self._threshold
        self._missed |= tried & ~self._found
        return again
