"""Chain of hindsight: which trajectories stand in a context, in which order, and what the agent is
asked to imitate.

A chain is a few trajectories of one task in ascending order of return (Liu and Abbeel 2023, arXiv
2305.16554, section 3), or (ours) the attempts of a search for the task, in the order in which they
are made. A row of `slots` trajectories holds one chain of full length, or several shorter chains
laid end to end, each of a length drawn uniformly from what is left of the row (they are kept apart
by segment ids), so that no slot is padding. Every length is drawn, short ones more often.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts.search_posterior import log_likelihood
from agentic_transformer.random_streams import stream


class Chains(NamedTuple):
    """A batch of rows of trajectories, each array of shape (rows, slots)."""

    task: np.ndarray
    """Index of the task whose rewards the slot carries."""
    episode: np.ndarray
    """Index of the trajectory."""
    chain: np.ndarray
    """Which chain of its row the slot belongs to, counted from 0."""
    target: np.ndarray
    """Return the trajectory is conditioned on at its first step (raw reward units)."""
    weight: np.ndarray
    """1 where the trajectory's actions are learned, else 0."""


def chain_targets(returns: np.ndarray, target: str) -> np.ndarray:
    """Target return of every trajectory of one chain.

    Args:
        returns: (trajectories,) returns of the chain.
        target: "chain_max" asks each trajectory for the chain's best return (the paper); "own" for
            the return it got (ours).

    Returns:
        (trajectories,) target returns.
    """
    return np.full_like(returns, returns.max()) if target == "chain_max" else returns


def loss_weights(returns: np.ndarray, best: float, config: AgentConfig) -> np.ndarray:
    """Which trajectories of one chain are imitated.

    Args:
        returns: (trajectories,) returns of the chain.
        best: the best return of the task in the data.
        config: `loss` is "all", "last" (of the chain), or "good" (from `loss_threshold` of `best`
            on).

    Returns:
        (trajectories,) float32: 1 where the actions are learned, else 0.
    """
    if config.loss == "all":
        chosen = np.ones(len(returns), bool)
    elif config.loss == "last":
        chosen = np.arange(len(returns)) == len(returns) - 1
    else:
        chosen = returns >= config.loss_threshold * best
    return chosen.astype(np.float32)


def available_episodes(episodes: int, top: float) -> int:
    """Returns how many trajectories of a task are drawn from: a share of the best ones, the very
    best always.
    """
    return max(1, round(top * episodes))


class ChainSampler:
    """Draws chains.

    What is drawn is a function of the seed and the step alone, so a resumed run continues where it
    stopped.
    """

    def __init__(self, returns: np.ndarray, config: AgentConfig, seed: int) -> None:
        """Ranks the trajectories of each task.

        Args:
            returns: (tasks, episodes) return of every trajectory under every task.
            config: how chains are made.
            seed: of all draws.

        Raises:
            ValueError: there are fewer trajectories than a chain holds.
        """
        episodes = available_episodes(returns.shape[1], config.top)
        if episodes < config.trajectories:
            top = f" (agent.top={config.top} of {returns.shape[1]})" if config.top < 1 else ""
            raise ValueError(
                f"agent.trajectories={config.trajectories} trajectories make a chain, but the data holds {episodes}{top}; "
                f"collect more (data.episodes) or set agent.trajectories to at most {episodes}"
            )
        self.config = config
        self.seed = seed
        self.returns = returns
        self.best = returns.max(axis=1)
        self._worst, self._best = returns.min(), returns.max()
        self.ranking = np.argsort(returns, axis=1, kind="stable")[:, -episodes:]
        ranked = np.take_along_axis(returns, self.ranking, axis=1)
        # Rank from which on a trajectory is good; the best one always is.
        self.first_good = np.minimum(
            (ranked < config.good * self.best[:, None]).sum(axis=1), episodes - 1
        )

    def draw(self, step: int, rows: int) -> Chains:
        """The rows of one training step.

        Args:
            step: position in the stream of batches.
            rows: how many rows.

        Returns:
            Chains of shape (rows, config.trajectories).
        """
        rng = stream("chains", self.seed, step)
        drawn = [self._draw_row(rng) for _ in range(rows)]
        return Chains(*(np.stack(columns) for columns in zip(*drawn, strict=True)))

    def _draw_row(self, rng: np.random.Generator) -> Chains:
        chains = []
        free = self.config.trajectories
        while free:
            count = free if self.config.length == "full" else int(rng.integers(1, free + 1))
            chains.append(self._draw_chain(rng, len(chains), count))
            free -= count
        return Chains(*(np.concatenate(columns) for columns in zip(*chains, strict=True)))

    def _draw_chain(self, rng: np.random.Generator, chain: int, count: int) -> Chains:
        if self.config.selection == "search":
            task, episode = self._search(rng, count)
        else:
            task = int(rng.integers(len(self.returns)))
            episode = self.draw_trajectories(rng, task, count)
        returns = self.returns[task, episode]
        return Chains(
            task=np.full(count, task, np.int32),
            episode=episode.astype(np.int32),
            chain=np.full(count, chain, np.int32),
            target=chain_targets(returns, self.config.target),
            weight=loss_weights(returns, self.best[task], self.config),
        )

    def draw_trajectories(self, rng: np.random.Generator, task: int, count: int) -> np.ndarray:
        """Distinct trajectories of one chain, in ascending order of return.

        Unless `selection` is uniform, the share of good trajectories (return from `good` of the
        task's best on) is uniform on 0..1; drawn uniformly, a good one would hardly ever be seen
        where most of the data is poor.

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
        if self.config.selection == "uniform":
            ranks = rng.choice(episodes, count, replace=False)
        else:
            poor = int(self.first_good[task])
            good = int(np.clip(rng.binomial(count, rng.uniform()), count - poor, episodes - poor))
            ranks = np.concatenate(
                [
                    rng.choice(poor, count - good, replace=False),
                    poor + rng.choice(episodes - poor, good, replace=False),
                ]
            )
        return self.ranking[task, np.sort(ranks)]

    def _search(self, rng: np.random.Generator, count: int) -> tuple[int, np.ndarray]:
        """A search by posterior sampling.

        An attempt is a good trajectory of a task drawn from the posterior, given what the attempts
        before it earned. The first few, a number uniform on 0..count-1, earn nothing; then the task
        that is searched for is drawn from the posterior too. So every attempt is what the attempts
        before it call for, and long searches are seen as often as short ones.

        Args:
            rng: source of randomness.
            count: attempts.

        Returns:
            The task, and (count,) episode indices in the order of the search.
        """
        log_posterior = np.zeros(len(self.returns))

        def draw_task() -> int:
            return int((log_posterior + rng.gumbel(size=len(log_posterior))).argmax())

        task, misses = None, rng.integers(count)
        episodes = []
        for number in range(count):
            if number == misses:
                task = draw_task()
            guess = draw_task()
            episode = rng.choice(self.ranking[guess, self.first_good[guess] :])
            earned = self._worst if task is None else self.returns[task, episode]
            log_posterior += log_likelihood(self.returns[:, episode], earned, self._best)
            episodes.append(episode)
        return task, np.array(episodes)
