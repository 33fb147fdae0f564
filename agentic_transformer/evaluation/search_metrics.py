"""Measures how often a searching agent repeats what it has missed before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentic_transformer.contexts.chains import near_best
from agentic_transformer.evaluation.statistics import FOUND_SHARE
from datasets.relabelling import relabel_many
from envs import Task


class RepeatMissRate:
    """Follows a batch of agents through their successive attempts at hidden tasks.

    An attempt *tries* the tasks under which its path would have found the goal. Tasks that it tries
    are *missed* if it does not find its own goal. The repeat miss rate of a later attempt is the
    share of its tried tasks that were missed before: 0 if the agent never repeats a miss.
    """

    def __init__(self, tasks: Sequence[Task], best_return: np.ndarray, action_repeat: int) -> None:
        """Prepares for the first attempt.

        Args:
            tasks: one per agent, not known to it. The distinct ones among them are what may be
                tried.
            best_return: (agents,) the best return of each task in the data.
            action_repeat: environment steps that an action is held for.
        """
        agent_of = {task: number for number, task in enumerate(tasks)}  # the last one with the task
        self._candidates, self._repeat = list(agent_of), action_repeat
        self._threshold = near_best(FOUND_SHARE, best_return)  # (agents,)
        self._candidate_threshold = self._threshold[list(agent_of.values())]  # (candidates,)
        self._missed = np.zeros((len(agent_of), len(tasks)), bool)
        self._found = np.zeros(len(tasks), bool)

    def update(self, physics: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """Takes the next attempt of every agent and returns its repeat miss rate.

        Args:
            physics: (agents, T + 1, P) states before the actions and after the last. The rewards of
                environment steps while an action is held count as those at its end.
            reward: (agents, T) what the attempt earned.

        Returns:
            (agents,) repeat miss rates; NaN if an attempt tries nothing, if the agent had missed
            nothing yet, or if it had found its task.
        """
        agents, steps = reward.shape
        states = physics[:, 1:].reshape(agents * steps, -1)
        rewards = relabel_many(states, self._candidates).reshape(-1, agents, steps)
        returns = self._repeat * rewards.sum(axis=2, dtype=np.float64)  # (candidates, agents)
        tried = returns >= self._candidate_threshold[:, None]
        searching = ~self._found & self._missed.any(axis=0) & tried.any(axis=0)
        repeated = (tried & self._missed).sum(axis=0)
        rate = np.where(searching, repeated / np.maximum(tried.sum(axis=0), 1), np.nan)
        self._found |= reward.sum(axis=1, dtype=np.float64) >= self._threshold
        self._missed |= tried & ~self._found
        return rate
