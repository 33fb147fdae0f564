"""Computes the rewards of a batch of states, each for its own task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from envs.domain import load_domain
from envs.registry import Task


class Rewards:
    """Computes rewards of states; tasks are grouped by behaviour once, not at every step."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Groups the tasks.

        Args:
            tasks: of each state, all of one domain and none of them a family. A single task serves
                any number of states.
        """
        self._tasks, self._count = tuple(tasks), len(tasks)
        functions = load_domain(tasks[0].domain).rewards
        by_behaviour: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            by_behaviour.setdefault(task.behaviour, []).append(index)
        self._groups = []
        for behaviour, rows in by_behaviour.items():
            names = tasks[rows[0]].params
            params = {key: np.array([tasks[row].params[key] for row in rows]) for key in names}
            states = slice(None) if len(by_behaviour) == 1 else rows
            self._groups.append((functions[behaviour], states, params))

    def __reduce__(self) -> tuple:
        """Makes a copy look up the functions again: many are lambdas, which pickle cannot copy."""
        return Rewards, (self._tasks,)

    def __call__(self, readings: Mapping[str, np.ndarray], control: np.ndarray) -> np.ndarray:
        """Computes the reward of every state, (states,) float64.

        Args:
            readings: of the states, by name.
            control: (states, action size).
        """
        given = {**readings, "ctrl": control}
        if len(self._groups) == 1:  # no need to pick states, nor to put rewards back in order
            function, _, params = self._groups[0]
            return function(given | params)
        reward = np.empty(self._count)
        for function, states, params in self._groups:
            own = {key: value[states] for key, value in given.items()}
            reward[states] = function(own | params)
        return reward
