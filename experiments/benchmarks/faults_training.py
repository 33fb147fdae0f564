"""Runs the quickstart's training on little data, step by step in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax

from agentic_transformer.config import TrainCommand
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.training.learner import TransformerLearner
from agentic_transformer.training.train import describe_agent


class Training:
    """Holds the state of a training run, its learner and its agent's spec."""

    def __init__(self, work: Path, command: TrainCommand) -> None:
        """Loads the data and initialises the state.

        Args:
            work: folder with the data of suite `faults` in `data`.
            command: settings of the training.
        """
        data_config = replace(command.data, root=str(work / "data"), episodes=200, tasks=6)
        data = training_data(command.task, data_config)
        self.spec = describe_agent(command, data)
        self.learner = TransformerLearner(command, data, self.spec)
        self.state, self.number = self.learner.init_state(), 0

    def run(self, steps: int) -> None:
        """Takes training steps and waits until they are done."""
        for _ in range(steps):
            batch = self.learner.make_batch(self.number)
            self.state, _ = self.learner.train_step(self.state, batch)
            self.number += 1
        jax.block_until_ready(self.state)
