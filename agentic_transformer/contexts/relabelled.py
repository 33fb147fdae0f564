"""Trajectories seen through the rewards of tasks: reward-free data becomes as many data sets as
there are tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts.chains import Chains, ChainSampler
from agentic_transformer.contexts.tokens import Normalizer, TokenLayout, Tokens, chain_tokens
from datasets import ActionRepeatView, Store, Trajectories
from envs import Task


class RelabelledDataset:
    """A store of trajectories with the rewards of every task of a list."""

    def __init__(self, store: Store | ActionRepeatView, tasks: Sequence[Task], mode: str) -> None:
        """Relabels what has not been relabelled before.

        Args:
            store: trajectories of equal length.
            tasks: of the store's domain.
            mode: "exorl" or "exact", see `datasets.relabel`.
        """
        distinct = list(dict.fromkeys(tasks))
        store.relabel(distinct, mode)
        self.store = store
        # Rewards are held once for each distinct task: an evaluation may repeat one task many
        # times.
        self._row = np.array([distinct.index(task) for task in tasks])
        self._rewards = np.stack(
            [store.rewards(task, mode=mode) for task in distinct]
        )  # (distinct, episodes, T)
        self.returns = self._rewards.sum(axis=-1, dtype=np.float64)[self._row]  # (tasks, episodes)

    def load(self, task: np.ndarray, episode: np.ndarray) -> tuple[Trajectories, np.ndarray]:
        """Trajectories and their rewards.

        Args:
            task: (k,) indices into the tasks.
            episode: (k,) indices into the store.

        Returns:
            The trajectories, and (k, T) rewards.
        """
        return self.store.load(episode), self._rewards[self._row[task], episode]

    def rewards(self, task: np.ndarray, episode: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Rewards (k,) of single steps, under tasks (k,) of episodes (k,)."""
        return self._rewards[self._row[task], episode, step]

    def scaling(self, reward_scale: float, sample: int = 1000) -> Normalizer:
        """Scales measured on the first `sample` trajectories of a fixed shuffle, and the best
        return of any task.
        """
        chosen = np.random.default_rng(0).permutation(self.store.episodes)[:sample]
        observation = self.store.load(np.sort(chosen)).observation
        return Normalizer.of(
            observation.reshape(-1, observation.shape[-1]), self.returns.max(), reward_scale
        )


class ChainLoader:
    """Token rows of any training step."""

    def __init__(
        self,
        data: RelabelledDataset,
        config: AgentConfig,
        layout: TokenLayout,
        seed: int,
        rows: int,
        local: np.ndarray | None = None,
    ) -> None:
        """Prepares to draw.

        Args:
            data: trajectories and rewards.
            config: how chains are made.
            layout: of tokens.
            seed: of all draws.
            rows: per step.
            local: which of them this process loads; all if None. All are drawn everywhere, so that
                processes agree.
        """
        self.data = data
        self.sampler = ChainSampler(data.returns, config, seed)
        self.layout = layout
        self.rows = rows
        self.local = np.arange(rows) if local is None else local

    def __call__(self, step: int) -> Tokens:
        """The local rows of a step, in natural order."""
        chains = Chains(*(x[self.local] for x in self.sampler.draw(step, self.rows)))
        trajectories, reward = self.data.load(chains.task.reshape(-1), chains.episode.reshape(-1))
        return chain_tokens(self.layout, chains, trajectories, reward)
