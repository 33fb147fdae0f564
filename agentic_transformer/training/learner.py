"""Defines what the training loop needs of a learner, and the learner of the transformer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax

from agentic_transformer.config import TrainCommand
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.errors import nearest, raise_config_error
from agentic_transformer.learners import (
    acting_class,
    find_learner,
    is_in_context,
    training_class,
)
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.settings import lies_in, settings_of
from agentic_transformer.training.computation import describe_attention, describe_computation
from agentic_transformer.training.sharding import local_rows, make_mesh, shard_batch
from agentic_transformer.training.state import (
    TrainState,
    abstract_state,
    init_state,
    make_optimizer,
)
from agentic_transformer.training.step import TrainStep, make_train_step


class Learner(Protocol):
    """Describes what the training loop needs of an agent, however the agent learns."""

    train_step: TrainStep
    """(state, batch) -> (state, metrics); it consumes the state. Metrics are numbers by name, the
    same names in each step. One of them is `loss`. Where a metric is the mean of nothing in some
    steps, the metric `<name> weight` tells how much each step counts in its mean over steps."""
    make_batch: Callable[[int], Any]
    """Takes the number of steps made so far. Returns the batch of the next step, on the devices."""
    tokens_per_batch: int
    """Tokens of a training step, over all rows; 0 for a learner without tokens."""
    computation: dict[str, str]
    """How the step computes, see `agentic_transformer.training.computation`."""

    def init_state(self) -> TrainState:
        """Returns a fresh train state on the devices."""

    def abstract_state(self) -> TrainState:
        """Returns shapes and shardings of the train state, to be filled from a checkpoint."""

    def learning_rate(self, step: int) -> Any:
        """Returns the learning rate of the step that follows `step` steps."""


def check_devices(config: TrainCommand) -> None:
    """Checks, before data are read, that the learner exists and can be trained on the devices.

    This imports the classes that train and act, so a missing one is an error now, not at the end.

    Args:
        config: all settings.

    Raises:
        ValueError: there is no such learner, its `shape` is not made of settings, the ring does not
            divide the devices, the batch does not divide over them, or the kernel cannot compute on
            them.
    """
    training_class(config.agent.learner)
    acting_class(config.agent.learner)
    _check_shape(config.agent.learner)
    if is_in_context(config.agent.learner):
        mesh = make_mesh(config.mesh.ring)
        local_rows(mesh, config.train.batch, config.train.grad_accum_steps)
        describe_attention(config.model, mesh, config.agent.chain_length == "full")


def _check_shape(learner: str) -> None:
    """Raises a UserError if `LearnerKind.shape` of a learner names what no agent has."""
    known = settings_of(AgentSpec)
    for key in find_learner(learner).shape:
        if not any(lies_in(setting, key) for setting in known):
            raise_config_error(
                f"shape of agent.learner={learner}: {key!r} is unknown",
                "keys of an AgentSpec, such as td3_bc.width",
                nearest(key, known),
            )


class TransformerLearner:
    """Trains the transformer to predict the actions of chains, over the whole mesh."""

    def __init__(self, config: TrainCommand, data: RelabelledDataset, spec: AgentSpec) -> None:
        """Prepares the mesh, the loader and the training step.

        Args:
            config: all settings.
            data: trajectories and rewards.
            spec: the agent.

        Raises:
            ValueError: the ring does not divide the devices, the batch does not divide over them,
                the kernel cannot compute on them, or the data hold fewer trajectories than a chain.
        """
        train, fsdp, agent = config.train, config.mesh.fsdp, config.agent
        self._layout = config.model.layout
        self._mesh = make_mesh(config.mesh.ring)
        rows = local_rows(self._mesh, train.batch, train.grad_accum_steps)
        self._loader = ChainLoader(data, agent, spec.layout(), config.seed, train.batch, rows)
        optimizer, schedule = make_optimizer(train)
        self.learning_rate = jax.jit(schedule)
        self._state_args = (partial(spec.build, config.seed), optimizer, self._mesh, fsdp)
        graph, self._abstract_state = abstract_state(*self._state_args)
        row = agent.trajectories * spec.steps * spec.layout().tokens_per_step
        self.tokens_per_batch = train.batch * row
        self.computation = {
            **describe_computation(config.model.precision, self._mesh.devices.flatten()),
            **describe_attention(config.model, self._mesh, agent.chain_length == "full"),
        }
        self.train_step = make_train_step(
            graph, optimizer, spec, self._mesh, row, train.grad_accum_steps, fsdp
        )

    def make_batch(self, step: int) -> Tokens:
        """Returns the token rows of a step, sharded over the mesh."""
        return shard_batch(self._loader(step), self._mesh, self._layout)

    def init_state(self) -> TrainState:
        """Returns a fresh train state on the mesh."""
        return init_state(*self._state_args)[1]

    def abstract_state(self) -> TrainState:
        """Returns shapes and shardings of the train state, to be filled from a checkpoint."""
        return self._abstract_state
