"""Defines the networks of TD3+BC: an actor and twin critics, each a multilayer perceptron."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from agentic_transformer.config import TD3BCConfig
from agentic_transformer.models.spec import AgentSpec

Params = dict[str, nnx.State]
"""Parameters of `actor`, `critics`, `target_actor` and `target_critics`."""


def _make_layers(inputs: int, outputs: int, config: TD3BCConfig, rngs: nnx.Rngs) -> nnx.List:
    sizes = [inputs, *[config.width] * config.layers, outputs]
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairs])


def _apply_layers(layers: nnx.List, x: jax.Array) -> jax.Array:
    """Applies linear layers with ReLU between them."""
    for layer in layers[:-1]:
        x = nnx.relu(layer(x))
    return layers[-1](x)


class Actor(nnx.Module):
    """Maps an observation to an action."""

    def __init__(self, spec: AgentSpec, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        self.layers = _make_layers(spec.observation_size, spec.action_size, spec.td3_bc, rngs)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Maps (..., O) to (..., A) within [-1, 1]."""
        return jnp.tanh(_apply_layers(self.layers, observation))


class Critics(nnx.Module):
    """Maps an observation and an action to two estimates Q_1, Q_2 of the discounted return."""

    def __init__(self, spec: AgentSpec, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        size = spec.observation_size + spec.action_size
        self.twins = nnx.List([_make_layers(size, 1, spec.td3_bc, rngs) for _ in range(2)])

    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """Maps (B, O) and (B, A) to (2, B)."""
        inputs = jnp.concatenate([observation, action], axis=-1)
        return jnp.stack([_apply_layers(layers, inputs)[..., 0] for layers in self.twins])


class Graphs(NamedTuple):
    """Holds the structures of the networks, to be merged with their parameters."""

    actor: nnx.GraphDef
    critics: nnx.GraphDef


def init_networks(spec: AgentSpec, seed: int) -> tuple[Graphs, Params]:
    """Returns fresh networks; the target networks begin as copies of those that they follow."""
    rngs = nnx.Rngs(seed)
    (actor_graph, actor), (critics_graph, critics) = (
        nnx.split(network(spec, rngs), nnx.Param) for network in (Actor, Critics)
    )
    copies = jax.tree.map(jnp.copy, {"target_actor": actor, "target_critics": critics})
    return Graphs(actor_graph, critics_graph), {"actor": actor, "critics": critics, **copies}
