"""Makes what suite `agent` measures: untrained agents of a task's shape and their training step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.capacity import flops
from agentic_transformer.config import AgentConfig, ModelConfig, TrainConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.ring.overlap import MATRIX_FLOPS
from agentic_transformer.training import sharding
from agentic_transformer.training.state import TrainState, init_state, make_optimizer
from agentic_transformer.training.step import make_train_step


def describe(
    trajectories: int, steps: int, observation: int, action: int, model: ModelConfig
) -> AgentSpec:
    """Describes an agent for a task of the given sizes.

    Args:
        trajectories: trajectories in the context.
        steps: steps of a trajectory.
        observation: numbers of an observation.
        action: numbers of an action.
        model: settings of the model.
    """
    scaling = Normalizer(
        (0.0,) * observation, (1.0,) * observation, return_scale=1.0, reward_scale=1.0
    )
    agent = AgentConfig(trajectories=trajectories)
    return AgentSpec(
        "point_mass_goal", 0, agent, model, scaling, observation, action, steps, best_return=1.0
    )


def quickstart(trajectories: int = 8) -> AgentSpec:
    """Describes the agent of the quickstart, with any number of trajectories."""
    return describe(trajectories, 12, 4, 2, ModelConfig())


def walker(trajectories: int, model: ModelConfig, steps: int = 1000) -> AgentSpec:
    """Describes an agent for walker; a suite that only shows that it works takes fewer steps."""
    return describe(trajectories, steps, 24, 6, model)


def policy(spec: AgentSpec) -> TransformerAgent:
    """Returns an untrained agent."""
    return TransformerAgent(*nnx.split(spec.build(0), nnx.Param), spec)


def context_tokens(spec: AgentSpec) -> int:
    """Returns the tokens of a full context."""
    return spec.agent.trajectories * spec.steps * spec.layout().tokens_per_step


def train_step(spec: AgentSpec, rows: int, devices: int) -> tuple[Callable, TrainState, Tokens]:
    """Makes the training step of `experiments.train`, a fresh state and a batch of random tokens.

    Args:
        spec: the agent; each row holds one chain.
        rows: rows of the batch.
        devices: devices of the ring: the first ones.
    """
    mesh = ring_mesh(devices)
    optimizer, _ = make_optimizer(TrainConfig())
    graph, state = init_state(lambda: spec.build(0), optimizer, mesh)
    step = make_train_step(graph, optimizer, spec, mesh, context_tokens(spec))
    return step, state, random_batch(spec, rows, mesh)


def ring_mesh(devices: int) -> Mesh:
    """Returns a mesh for training whose one ring has the first `devices` of this process."""
    return sharding.make_mesh(devices, jax.devices()[:devices])


def random_batch(spec: AgentSpec, rows: int, mesh: Mesh) -> Tokens:
    """Returns a batch of random tokens on a mesh, with the timesteps and weights of chains."""
    layout, length = spec.layout(), context_tokens(spec)
    shape = (rows, length)
    rng = np.random.default_rng(0)
    tokens = Tokens(
        features=rng.standard_normal((*shape, layout.feature_size), np.float32),
        timestep=np.broadcast_to(
            np.arange(length) // layout.tokens_per_step % spec.steps, shape
        ).astype(np.int32),
        segment=np.zeros(shape, np.int32),
        action=rng.uniform(-1, 1, (*shape, spec.action_size)).astype(np.float32),
        weight=np.broadcast_to(
            np.arange(length) % layout.tokens_per_step == layout.action_token, shape
        ).astype(np.float32),
    )
    return sharding.shard_batch(tokens, mesh, spec.model.layout)


def step_flops(spec: AgentSpec, rows: int) -> float:
    """Returns the FLOPs of a training step's products: of the layers, the features and the head.

    They are three times those of the forward pass; only causal pairs of tokens count.
    """
    model, length = spec.model, context_tokens(spec)
    outer = spec.layout().feature_size + model.components * (1 + 2 * spec.action_size)
    pairs = flops.layer_attention(model, length, length + 1)
    layer = flops.layer_products(model, length) + pairs
    outside = MATRIX_FLOPS * model.width * outer * length
    return float((1 + flops.BACKWARD) * rows * (model.layers * layer + outside))
