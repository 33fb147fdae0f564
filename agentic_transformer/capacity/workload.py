"""Describes what would run: a train step of a model, a context length, a number of devices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import jax
from flax import nnx

from agentic_transformer.capacity.hardware import Topology
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.models.spec import AgentSpec


@dataclass(frozen=True)
class Workload:
    """Describes one train step: state sharded over all devices, each sequence over a ring."""

    topology: Topology
    model: ModelConfig
    tokens: int
    """Tokens of a device: its part of one sequence."""
    observation_size: int
    action_size: int
    steps: int
    """Steps of a trajectory."""
    ring: int
    """Devices that share a sequence. Each ring has one sequence at a time."""

    def with_tokens(self, tokens: int) -> Workload:
        """Returns the same workload with other tokens a device."""
        return replace(self, tokens=tokens)

    @property
    def context(self) -> int:
        """Returns the tokens of a sequence."""
        return self.tokens * self.ring

    @property
    def sequences(self) -> int:
        """Returns the number of sequences in a batch."""
        return self.topology.devices // self.ring

    @property
    def spec(self) -> AgentSpec:
        """Returns the description of the agent, in which all scales of its inputs are 1."""
        return _spec(self.model, self.observation_size, self.action_size, self.steps)

    @property
    def parameter_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Returns the shapes of all arrays of parameters."""
        return _parameter_shapes(self.model, self.observation_size, self.action_size, self.steps)

    @property
    def parameters(self) -> int:
        """Returns the number of parameters."""
        return sum(map(math.prod, self.parameter_shapes))

    @property
    def trajectories(self) -> float:
        """Returns the number of trajectories that the context holds."""
        return self.context / (self.steps * self.spec.layout().tokens_per_step)


def _spec(model: ModelConfig, observation_size: int, action_size: int, steps: int) -> AgentSpec:
    return AgentSpec(
        task="planned",
        seed=0,
        # The context need not be whole trajectories: no losses are told apart by their place in it.
        agent=AgentConfig(trajectories=1),
        model=model,
        normalizer=Normalizer((0.0,) * observation_size, (1.0,) * observation_size, 1.0, 1.0),
        observation_size=observation_size,
        action_size=action_size,
        steps=steps,
        best_return=1.0,
    )


@lru_cache
def _parameter_shapes(model: ModelConfig, *sizes: int) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes of all arrays, from a model of one layer: building 60 takes seconds."""
    one = _spec(replace(model, layers=1), *sizes)
    params = dict(nnx.split(nnx.eval_shape(lambda: one.build(0)), nnx.Param)[1])
    layer = [x.shape for x in jax.tree.leaves(params.pop("blocks"))]
    if model.scan_layers:  # the layers are stacked, (layers, ...)
        layers = [(model.layers, *shape[1:]) for shape in layer]
    else:
        layers = layer * model.layers
    return (*layers, *(x.shape for x in jax.tree.leaves(params)))
