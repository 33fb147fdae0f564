"""Computes the rewards of a batch of states, each for its own task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from envs.domain import FamilyReward, Readings, load_domain
from envs.family_table import FAMILIES
from envs.gymnasium_tasks import is_gymnasium
from envs.registry import Task


def family_reward(task: Task) -> FamilyReward | None:
    """Returns the reward of the family that a task with parameters belongs to; else None."""
    if is_gymnasium(task.name):
        return FamilyReward(_observation, FAMILIES[task.name].reward)
    return load_domain(task.domain).families.get(task.behaviour)


def _observation(readings: Readings) -> np.ndarray:
    return readings["observation"].astype(np.float64)


def stack_params(tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Returns the parameters of several members of one family.

    Returns:
        name -> (tasks,), or (tasks, numbers) for a parameter of several numbers.
    """
    return {key: np.array([task.params[key] for task in tasks]) for key in tasks[0].params}


def reward_function(task: Task) -> Callable[..., np.ndarray]:
    """Returns the function of readings and parameters that computes a task's reward, (states,)."""
    family = family_reward(task)
    if family is None:
        return load_domain(task.domain).rewards[task.behaviour]

    def reward(readings: Readings, **params: np.ndarray) -> np.ndarray:
        return family.reward(family.measure(readings), **params)

    return reward


class Rewards:
    """Computes rewards of states; tasks are grouped by behaviour once, not at every step."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Groups the tasks.

        Args:
            tasks: of each state, all of one domain and none of them a family.
        """
        self._tasks, self._count = tuple(tasks), len(tasks)
        by_behaviour: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            by_behaviour.setdefault(task.behaviour, []).append(index)
        self._groups = []
        for rows in by_behaviour.values():
            own = [tasks[row] for row in rows]
            self._groups.append((reward_function(own[0]), rows, stack_params(own)))

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
            return function(given, **params)
        reward = np.empty(self._count)
        for function, states, params in self._groups:
            own = {key: value[states] for key, value in given.items()}
            reward[states] = function(own, **params)
        return reward
