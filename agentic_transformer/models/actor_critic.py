"""Defines the networks of TD3, TD3+BC and IQL: multilayer perceptrons."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from agentic_transformer.config import ActorCriticConfig, IQLConfig, TD3Config
from agentic_transformer.models.spec import AgentSpec

Params = dict[str, nnx.State]
"""Parameters by network; `target_critics` are those of the target network of `critics`."""


class Shape(NamedTuple):
    """Describes the networks of a learner."""

    observation: int
    """Size of an observation."""
    action: int
    """Size of an action."""
    config: ActorCriticConfig | TD3Config
    """Width and number of the hidden layers; an `IQLConfig` adds a `Value`."""
    layer_norm: bool = False
    """Whether the outputs of hidden layers are normalized, which steadies online learning."""

    @staticmethod
    def of(spec: AgentSpec) -> Shape:
        """Returns the shape of an agent's networks."""
        config = spec.iql if spec.agent.learner == "iql" else spec.td3_bc
        return Shape(spec.observation_size, spec.action_size, config)


def _make_layers(inputs: int, outputs: int, shape: Shape, rngs: nnx.Rngs) -> nnx.List:
    sizes = [inputs, *[shape.config.width] * shape.config.layers, outputs]
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    layers = [nnx.Linear(a, b, rngs=rngs) for a, b in pairs]
    if shape.layer_norm:
        layers[:-1] = [
            nnx.Sequential(layer, nnx.LayerNorm(shape.config.width, rngs=rngs))
            for layer in layers[:-1]
        ]
    return nnx.List(layers)


def _apply_layers(layers: nnx.List, x: jax.Array) -> jax.Array:
    """Applies layers with ReLU between them."""
    for layer in layers[:-1]:
        x = nnx.relu(layer(x))
    return layers[-1](x)


class Actor(nnx.Module):
    """Maps an observation to an action."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        self.layers = _make_layers(shape.observation, shape.action, shape, rngs)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Maps (..., O) to (..., A) within [-1, 1]."""
        return jnp.tanh(_apply_layers(self.layers, observation))


class Critics(nnx.Module):
    """Maps an observation and an action to two estimates Q_1, Q_2 of the discounted return."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        size = shape.observation + shape.action
        self.twins = nnx.List([_make_layers(size, 1, shape, rngs) for _ in range(2)])

    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """Maps (B, O) and (B, A) to (2, B)."""
        inputs = jnp.concatenate([observation, action], axis=-1)
        return jnp.stack([_apply_layers(layers, inputs)[..., 0] for layers in self.twins])


class Value(nnx.Module):
    """Maps an observation to an estimate of the discounted return from there."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        self.layers = _make_layers(shape.observation, 1, shape, rngs)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Maps (..., O) to (...)."""
        return _apply_layers(self.layers, observation)[..., 0]


class Graphs(NamedTuple):
    """Holds the structures of the networks, to be merged with their parameters."""

    actor: nnx.GraphDef
    critics: nnx.GraphDef
    value: nnx.GraphDef | None = None
    """Only IQL has it."""


def init_networks(shape: Shape, seed: int) -> tuple[Graphs, Params]:
    """Returns fresh networks; the target networks begin as copies of those that they follow."""
    networks: dict[str, type[nnx.Module]] = {"actor": Actor, "critics": Critics}
    followed = ("actor", "critics")
    if isinstance(shape.config, IQLConfig):
        networks["value"] = Value
        followed = ("critics",)
    rngs = nnx.Rngs(seed)
    graphs, params = {}, {}
    for name, network in networks.items():
        graphs[name], params[name] = nnx.split(network(shape, rngs), nnx.Param)
    targets = {f"target_{name}": params[name] for name in followed}
    return Graphs(**graphs), params | jax.tree.map(jnp.copy, targets)
