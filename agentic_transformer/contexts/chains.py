"""Draws chains of hindsight: the trajectories of a context, and which of them the agent imitates.

A chain is a few trajectories of one task in ascending order of return (Liu and Abbeel 2023, arXiv
2305.16554, section 3). With `selection=search` (ours) it is the attempts of a search for the task,
in the order in which they are made. With `selection=history` it is a learning history: trajectories
in the order of collection (Laskin et al. 2023, arXiv 2210.14215).

A row of `slots` trajectories holds one chain of full length, or several shorter chains one after
another. The lengths of shorter chains are drawn uniformly from what is left of the row, so that
every length occurs, short ones more often, and no slot is padding. Segment ids keep the chains of
a row apart.

The data may hold tasks at which all trajectories earn the same, and nothing above 0. There every
trajectory would count as good, though none shows how to solve the task. So chains are drawn from
the other tasks, if there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts.search_posterior import log_likelihood, return_size
from agentic_transformer.random_streams import stream


class Chains(NamedTuple):
    """Holds a batch of rows of trajectories, each array of shape (rows, slots)."""

    task: np.ndarray
    """Index of the task whose rewards the slot carries."""
    episode: np.ndarray
    """Index of the slot's trajectory."""
    chain: np.ndarray
    """Index of the slot's chain within its row."""
    target: np.ndarray
    """Target return at the trajectory's first step, in raw reward units."""
    weight: np.ndarray
    """1 where the trajectory's actions are learned, else 0."""


class _Chain(NamedTuple):
    """Holds what is drawn of a chain; all else follows from it."""

    number: int  # of the chain within its row
    task: int
    episode: np.ndarray  # (trajectories,)


def chain_targets(returns: np.ndarray, lengths: np.ndarray, target: str) -> np.ndarray:
    """Returns the target return of every trajectory of some chains.

    Args:
        returns: (trajectories,) returns, one chain after another.
        lengths: (chains,) trajectories of each chain.
        target: "chain_max" asks each trajectory for the chain's best return (the paper). "own" asks
            it for the return that it got (ours).

    Returns:
        (trajectories,) target returns.
    """
    if target == "own":
        return returns
    return np.repeat(np.maximum.reduceat(returns, lengths.cumsum() - lengths), lengths)


def share_of_best(share: float, best: np.ndarray, worst: np.ndarray) -> np.ndarray:
    """Returns the return that is a share of a task's best return.

    Where no return is positive (rewards are costs), the result lies that share of the way from the
    worst return to the best.

    Args:
        share: from 0 to 1.
        best: (...) best returns.
        worst: (...) worst returns.
    """
    # The whole way may end above the best return, by rounding: then nothing would reach it.
    return np.where(best > 0, share * best, np.minimum(worst + share * (best - worst), best))


def near_best(share: float, best: np.ndarray | float) -> np.ndarray:
    """Returns the return that is a share of a task's best return, where the worst is not known.

    The result lies below the best return by (1 - share) of the best return's size: a share of 0.95
    is 95 for a best return of 100, and -105 for one of -100. So a share of at most 1 never asks for
    more than the best return.

    Args:
        share: from 0 on; 1 is the best return itself.
        best: (...) best returns.
    """
    return np.where(best > 0, share * best, best - (1 - share) * np.abs(best))


def loss_weights(
    returns: np.ndarray,
    lengths: np.ndarray,
    best: np.ndarray,
    worst: np.ndarray,
    config: AgentConfig,
) -> np.ndarray:
    """Returns which trajectories of some chains the agent imitates.

    Args:
        returns: (trajectories,) returns, one chain after another.
        lengths: (chains,) trajectories of each chain.
        best: (trajectories,) the best return in the data of the task of each trajectory.
        worst: (trajectories,) the worst return, likewise.
        config: `loss` is "all", "last" (of the chain), or "good" (at least `loss_threshold` of
            `best`).

    Returns:
        (trajectories,) float32: 1 where the actions are learned, else 0.
    """
    if config.loss == "all":
        learned = np.ones(len(returns), bool)
    elif config.loss == "last":
        learned = np.zeros(len(returns), bool)
        learned[lengths.cumsum() - 1] = True
    else:
        learned = returns >= share_of_best(config.loss_threshold, best, worst)
    return learned.astype(np.float32)


def available_episodes(episodes: int, top: float) -> int:
    """Returns the number of trajectories of a task that chains are drawn from.

    Args:
        episodes: trajectories in the data.
        top: the share of the best ones that is used; the very best is always among them.
    """
    return max(1, round(top * episodes))


class ChainSampler:
    """Draws chains. A draw depends only on the seed and the step, so resuming changes no draw."""

    def __init__(self, returns: np.ndarray, config: AgentConfig, seed: int) -> None:
        """Ranks the trajectories of each task by return.

        Args:
            returns: (tasks, episodes) return of every trajectory under every task.
            config: how chains are made.
            seed: seed of all draws.

        Raises:
            ValueError: there are fewer trajectories than a chain holds.
        """
        episodes = available_episodes(returns.shape[1], config.top)
        if episodes < config.trajectories:
            top = f" (agent.top={config.top} of {returns.shape[1]})" if config.top < 1 else ""
            raise ValueError(
                f"agent.trajectories={config.trajectories} trajectories make a chain, "
                f"but the data holds {episodes}{top}; "
                f"collect more (data.episodes) or set agent.trajectories to at most {episodes}"
            )
        self.config = config
        self.seed = seed
        self.returns = returns
        self.best_per_task, self._worst_per_task = returns.max(axis=1), returns.min(axis=1)
        tells = (self.best_per_task > 0) | (self.best_per_task > self._worst_per_task)
        # Indices of the tasks that chains are drawn from, see the docstring of this module.
        self.tasks = np.flatnonzero(tells if tells.any() else ~tells)
        self._worst_return = returns[self.tasks].min()
        self._return_size = return_size(returns[self.tasks])
        # (tasks, episodes) episode indices in ascending order of return
        self.ranking = np.argsort(returns, axis=1, kind="stable")[:, -episodes:]
        ranked = np.take_along_axis(returns, self.ranking, axis=1)
        # (tasks,) the lowest rank of a good trajectory; the best one is always good.
        good = share_of_best(config.selection_threshold, self.best_per_task, self._worst_per_task)
        self.first_good = (ranked < good[:, None]).sum(axis=1)

    def draw(self, step: int, rows: int) -> Chains:
        """Returns the rows of one training step.

        Args:
            step: position in the stream of batches.
            rows: how many rows.

        Returns:
            Chains of shape (rows, config.trajectories).
        """
        rng = stream("chains", self.seed, step)
        drawn = [chain for _ in range(rows) for chain in self._draw_row(rng)]
        lengths = np.array([len(chain.episode) for chain in drawn])
        task = np.repeat([chain.task for chain in drawn], lengths)
        episode = np.concatenate([chain.episode for chain in drawn])
        returns = self.returns[task, episode]
        best, worst = self.best_per_task[task], self._worst_per_task[task]
        columns = Chains(
            task=task.astype(np.int32),
            episode=episode.astype(np.int32),
            chain=np.repeat([chain.number for chain in drawn], lengths).astype(np.int32),
            target=chain_targets(returns, lengths, self.config.target),
            weight=loss_weights(returns, lengths, best, worst, self.config),
        )
        return Chains(*(column.reshape(rows, -1) for column in columns))

    def evenly_drawn(self, rows: int = 1000) -> float:
        """Returns the effective number of the tasks that chains are drawn from.

        It is 1 / sum_i p_i^2, with p_i the probability of task i: if all tasks are equally likely,
        it is their number. sum_i p_i^2 is estimated, without bias, by the share of pairs of chains
        that have the same task; the result is inf if no pair has.

        Args:
            rows: how many rows are drawn for the estimate. Draws of training do not change.
        """
        chains = self.draw(0, rows)
        first = np.diff(chains.chain, axis=1, prepend=-1) != 0  # slots that begin a chain
        counts = np.bincount(chains.task[first])
        pairs = (counts * (counts - 1)).sum()
        return counts.sum() * (counts.sum() - 1) / pairs if pairs else np.inf

    def _draw_row(self, rng: np.random.Generator) -> Iterator[_Chain]:
        """Yields chains that fill a row."""
        free, number = self.config.trajectories, 0
        while free:
            count = free if self.config.chain_length == "full" else int(rng.integers(1, free + 1))
            if self.config.selection == "search":
                task, episode = self._draw_search(rng, count)
            else:
                task = int(self.tasks[rng.integers(len(self.tasks))])
                episode = self.draw_trajectories(rng, task, count)
            yield _Chain(number, task, episode)
            free, number = free - count, number + 1

    def draw_trajectories(self, rng: np.random.Generator, task: int, count: int) -> np.ndarray:
        """Draws distinct trajectories of one chain, in its order.

        The order is by ascending return; with `selection=history` it is that of collection.

        A trajectory is good if it earned at least `selection_threshold` of the task's best return.
        If `selection` is neither "uniform" nor "history", the share of good ones in a chain is
        uniform on 0..1. With uniform selection a good one would hardly ever be seen where most of
        the data is poor.

        Args:
            rng: source of randomness.
            task: row of the returns.
            count: how many trajectories.

        Returns:
            (count,) episode indices.

        Raises:
            ValueError: there are fewer trajectories than that.
        """
        episodes = self.ranking.shape[1]
        if count > episodes:
            raise ValueError(
                f"a chain of {count} distinct trajectories cannot be drawn from {episodes}"
            )
        if self.config.selection in ("uniform", "history"):
            ranks = rng.choice(episodes, count, replace=False)
        else:
            poor = int(self.first_good[task])
            # A binomial count whose probability is uniform on 0..1 is itself uniform on 0..count.
            good = rng.binomial(count, rng.uniform())
            good = min(max(good, count - poor), episodes - poor)
            poor_ranks = rng.choice(poor, count - good, replace=False)
            good_ranks = poor + rng.choice(episodes - poor, good, replace=False)
            ranks = np.concatenate([poor_ranks, good_ranks])
        chosen = self.ranking[task, np.sort(ranks)]
        # A store numbers its episodes as their files are numbered, so in the order of collection.
        return np.sort(chosen) if self.config.selection == "history" else chosen

    def _draw_search(self, rng: np.random.Generator, count: int) -> tuple[int, np.ndarray]:
        """Draws a search by posterior sampling: its task, and its (count,) episodes in order.

        Each attempt is a good trajectory of a task that is drawn from the posterior, given the
        returns of the attempts before it. The first attempts are misses: the posterior is told that
        they earned the worst return of the data. Their number is uniform on 0..count-1, so that
        long searches are as frequent as short ones. Then the hidden task is drawn from the
        posterior, and later attempts have their returns under this task. So every attempt is what
        posterior sampling would try after the attempts before it.
        """
        log_posterior = np.full(len(self.returns), -np.inf)
        log_posterior[self.tasks] = 0.0

        def draw_task() -> int:
            # The Gumbel-max trick: the argmax is a draw from softmax(log_posterior).
            return int((log_posterior + rng.gumbel(size=len(log_posterior))).argmax())

        task, misses = None, rng.integers(count)
        episodes = []
        for attempt in range(count):
            if attempt == misses:
                task = draw_task()
            guess = draw_task()
            episode = rng.choice(self.ranking[guess, self.first_good[guess] :])
            # An attempt before the task is found is a miss: it earns the worst return.
            earned = self._worst_return if task is None else self.returns[task, episode]
            log_posterior += log_likelihood(self.returns[:, episode], earned, self._return_size)
            episodes.append(episode)
        return task, np.array(episodes)
