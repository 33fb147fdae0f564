"""Makes the token rows of a training step from chains of trajectories."""

from __future__ import annotations

import numpy as np

from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts.chain_tokens import encode_chains
from agentic_transformer.contexts.chains import Chains, ChainSampler
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.tokens import TokenLayout, Tokens


class ChainLoader:
    """Makes the token rows of any training step: draws chains, loads and encodes them."""

    def __init__(
        self,
        data: RelabelledDataset,
        config: AgentConfig,
        layout: TokenLayout,
        seed: int,
        rows: int,
        local: np.ndarray | None = None,
    ) -> None:
        """Prepares the sampler, and prints which tasks it leaves out or draws far too rarely.

        Args:
            data: trajectories and rewards.
            config: how chains are made.
            layout: how steps become tokens.
            seed: seed of all draws.
            rows: rows of a step's batch, over all processes.
            local: which of the rows this process loads; None loads all. Every process draws all
                rows, so that processes agree.
        """
        self.data = data
        self.sampler = ChainSampler(data.returns, config, seed)
        left_out = len(data.returns) - len(self.sampler.tasks)
        if left_out:
            print(
                f"tasks: {left_out} of {len(data.returns)} are left out of chains, because all "
                "episodes earn the same there, and nothing above 0",
                flush=True,
            )
        if config.selection == "search":
            even, tasks = self.sampler.evenly_drawn(), len(self.sampler.tasks)
            if even < tasks / 2:
                print(
                    "tasks: some are searched for far more often than others; their effective "
                    f"number is {even:.0f} of {tasks} (agent.selection=search)",
                    flush=True,
                )
        self.layout = layout
        self.rows = rows
        self.local = np.arange(rows) if local is None else local

    def __call__(self, step: int) -> Tokens:
        """Returns the local rows of a step, in natural order."""
        # (local rows, slots): the draw of all rows is cheap, their trajectories are not.
        chains = Chains(*(x[self.local] for x in self.sampler.draw(step, self.rows)))
        episode = chains.episode.reshape(-1)
        trajectories, reward = self.data.load(chains.task.reshape(-1), episode)
        config = self.sampler.config
        imitated = self.data.demonstrator(episode) if config.imitate == "demonstrator" else None
        with_value = config.weighting == "advantage"
        return encode_chains(self.layout, chains, trajectories, reward, imitated, with_value)
