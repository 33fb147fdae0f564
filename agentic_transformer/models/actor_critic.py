"""Defines the networks of TD3, TD3+BC, IQL, CQL and CRR: multilayer perceptrons."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from agentic_transformer.config import (
    ActorCriticConfig,
    CQLConfig,
    CRRConfig,
    IQLConfig,
    TD3Config,
)
from agentic_transformer.models.spec import AgentSpec

_LOG_STD = (-10.0, 2.0)
"""Smallest and largest logarithm of a standard deviation."""

Params = dict[str, nnx.State]
"""Parameters by network; `target_critics` are those of the target network of `critics`."""


class Shape(NamedTuple):
    """Describes the networks of a learner."""

    observation: int
    """Size of an observation."""
    action: int
    """Size of an action."""
    config: ActorCriticConfig | TD3Config
    """Width and number of the hidden layers; its class decides which networks there are."""
    layer_norm: bool = False
    """Whether the outputs of hidden layers are normalized, which keeps values from growing."""

    @staticmethod
    def of(spec: AgentSpec) -> Shape:
        """Returns the shape of an agent's networks."""
        configs = {"iql": spec.iql, "cql": spec.cql, "crr": spec.crr}
        config = configs.get(spec.agent.learner, spec.td3_bc)
        # CRR's actor follows the errors of its critics: see `agentic_transformer.training.crr`.
        layer_norm = isinstance(config, CRRConfig)
        return Shape(spec.observation_size, spec.action_size, config, layer_norm)


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


class GaussianActor(nnx.Module):
    """Maps an observation to a distribution of actions: the tanh of a Gaussian.

    It is the actor of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).
    """

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        self.layers = _make_layers(shape.observation, 2 * shape.action, shape, rngs)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """Maps (..., O) to (..., A) within [-1, 1]: the action of the Gaussian's mean."""
        return jnp.tanh(self._gaussian(observation)[0])

    def sample(
        self, observation: jax.Array, key: jax.Array, count: int
    ) -> tuple[jax.Array, jax.Array]:
        """Draws actions, with gradients.

        With u from the Gaussian, a = tanh(u) and

            log pi(a|s) = sum_k log N(u_k) - log(1 - tanh(u_k)^2)

        Args:
            observation: (B, O).
            key: of the draws.
            count: N, actions for each observation.

        Returns:
            (N, B, A) actions and (N, B) the logarithms of their densities.
        """
        mean, log_std = self._gaussian(observation)
        normal = jax.random.normal(key, (count, *mean.shape))
        u = mean + jnp.exp(log_std) * normal
        log_normal = -0.5 * normal**2 - log_std - 0.5 * math.log(2 * math.pi)
        # 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2, whose logarithm stays finite where tanh rounds to 1.
        log_slope = 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
        return jnp.tanh(u), (log_normal - log_slope).sum(axis=-1)

    def _gaussian(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the mean and the logarithm of the standard deviation, each (..., A)."""
        mean, log_std = jnp.split(_apply_layers(self.layers, observation), 2, axis=-1)
        return mean, jnp.clip(log_std, *_LOG_STD)


class Critics(nnx.Module):
    """Maps an observation and an action to two estimates Q_1, Q_2 of the discounted return."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        size = shape.observation + shape.action
        self.twins = nnx.List([_make_layers(size, 1, shape, rngs) for _ in range(2)])

    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """Maps (..., O) and (..., A) to (2, ...)."""
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


class EntropyWeight(nnx.Module):
    """Holds the weight of the actor's entropy, which is learned as its logarithm."""

    def __init__(self, shape: Shape, rngs: nnx.Rngs) -> None:
        """Initialises the weight as 1."""
        self.log = nnx.Param(jnp.zeros(()))

    def __call__(self) -> jax.Array:
        """Returns the weight."""
        return jnp.exp(self.log[...])


class Graphs(NamedTuple):
    """Holds the structures of the networks, to be merged with their parameters."""

    actor: nnx.GraphDef
    critics: nnx.GraphDef
    value: nnx.GraphDef | None = None
    """Only IQL has it."""
    entropy_weight: nnx.GraphDef | None = None
    """Only CQL has it."""


_TD3_NETWORKS = {"actor": Actor, "critics": Critics}, ("actor", "critics")
_NETWORKS: dict[type, tuple[dict[str, type[nnx.Module]], tuple[str, ...]]] = {
    IQLConfig: ({"actor": Actor, "critics": Critics, "value": Value}, ("critics",)),
    CQLConfig: (
        {"actor": GaussianActor, "critics": Critics, "entropy_weight": EntropyWeight},
        ("critics",),
    ),
}
"""Networks of a learner, and those that target networks follow, by the class of its settings. Other
learners have those of TD3."""


def init_networks(shape: Shape, seed: int) -> tuple[Graphs, Params]:
    """Returns fresh networks; the target networks begin as copies of those that they follow."""
    networks, followed = _NETWORKS.get(type(shape.config), _TD3_NETWORKS)
    rngs = nnx.Rngs(seed)
    graphs, params = {}, {}
    for name, network in networks.items():
        graphs[name], params[name] = nnx.split(network(shape, rngs), nnx.Param)
    targets = {f"target_{name}": params[name] for name in followed}
    return Graphs(**graphs), params | jax.tree.map(jnp.copy, targets)
