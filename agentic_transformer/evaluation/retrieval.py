"""Hides one informative trajectory among uninformative ones: the counterpart of line retrieval.

The Ring Attention paper asks a language model for one line of a long text (arXiv 2310.01889, figure
3). Here the context of the n-th trajectory holds n-1 trajectories of the data. One of them shows
how the hidden task is solved, and the return tells whether the agent still finds it:

    informative      a good trajectory of the task, in the sense of `agent.selection_threshold`
    uninformative    one that earns at most `POOR_SHARE` of the task's best return in the data; if
                     rewards are costs, at most that share of the way from the worst to the best

An uninformative trajectory still shows what does not solve the task. So `distractors`, a context of
uninformative trajectories alone, is the control. For one n, the two conditions differ in one
trajectory, and two distances differ in the place of that trajectory.
"""

from __future__ import annotations

import numpy as np

from agentic_transformer.contexts.chains import ChainSampler, share_of_best

RETRIEVAL = ("retrieval", "distractors")
"""Conditions whose contexts are made here."""

POOR_SHARE = 0.1
"""An uninformative trajectory earns at most this share of the best return of its task."""


def distances(trajectories: int) -> list[int]:
    """Returns the distances at which the informative trajectory is placed before the n-th one.

    They are the powers of two and n - 1, the start of the context. At a distance of 1 it stands
    right before the n-th trajectory.

    Args:
        trajectories: n.
    """
    longest = trajectories - 1
    return sorted({2**power for power in range(longest.bit_length())} | {longest} - {0})


def uninformative(returns: np.ndarray) -> np.ndarray:
    """Returns which trajectories are uninformative, (tasks, episodes) bool.

    Args:
        returns: (tasks, episodes) of the data.
    """
    best, worst = returns.max(axis=1, keepdims=True), returns.min(axis=1, keepdims=True)
    return returns <= share_of_best(POOR_SHARE, best, worst)


def draw_prompts(
    sampler: ChainSampler, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the trajectories of a context for every task of the data.

    Args:
        sampler: knows the returns of the data, and which of them are good.
        count: how many trajectories.
        rng: generator of the draws.

    Returns:
        (tasks, count) distinct uninformative trajectories, and (tasks,) informative ones.
    """
    poor = [
        rng.choice(np.flatnonzero(row), count, replace=False)
        for row in uninformative(sampler.returns)
    ]
    good = [
        rng.choice(ranking[first:])
        for ranking, first in zip(sampler.ranking, sampler.first_good, strict=True)
    ]
    return np.stack(poor), np.array(good)


def place(poor: np.ndarray, good: np.ndarray, distance: int) -> np.ndarray:
    """Returns contexts (tasks, count) with the informative trajectory in its place.

    Args:
        poor: (tasks, count) uninformative trajectories; one of each task makes room.
        good: (tasks,) informative ones.
        distance: 1 for the last place of the context.
    """
    placed = poor.copy()
    placed[:, -distance] = good
    return placed
