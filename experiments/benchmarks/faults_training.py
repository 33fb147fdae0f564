"""Runs the quickstart's training on little data, step by step in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax

from agentic_transformer.config import TrainCommand
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training import sharding
from agentic_transformer.training.state import init_state, make_optimizer
from agentic_transformer.training.step import make_train_step


class Training:
    """Holds the state of a training run, its step and its data."""

    def __init__(self, work: Path, command: TrainCommand) -> None:
        """Loads the data and initialises the state.

        Args:
            work: folder with the data of suite `faults` in `data`.
            command: settings of the training.
        """
        data_config = replace(command.data, root=str(work / "data"), episodes=200, tasks=6)
        data = training_data(command.task, data_config)
        steps = int(data.store.lengths[0])
        self.description = AgentSpec(
            task=command.task,
            seed=0,
            agent=command.agent,
            model=command.model,
            normalizer=data.normalizer(command.agent.reward_scale),
            observation_size=data.store.observation_size,
            action_size=data.store.action_size,
            steps=steps,
            best_return=float(data.returns.max()),
        )
        self.loader = ChainLoader(
            data, command.agent, self.description.layout(), 0, command.train.batch
        )
        self.mesh, (optimizer, _) = sharding.make_mesh(1), make_optimizer(command.train)
        graph, self.state = init_state(lambda: self.description.build(0), optimizer, self.mesh)
        tokens = command.agent.trajectories * steps
        self.step = make_train_step(graph, optimizer, command.model, self.mesh, tokens)
        self.number = 0

    def run(self, steps: int) -> None:
        """Takes training steps and waits until they are done."""
        for _ in range(steps):
            tokens = sharding.shard_batch(self.loader(self.number), self.mesh, "zigzag")
            self.state, _ = self.step(self.state, tokens)
            self.number += 1
        jax.block_until_ready(self.state)
