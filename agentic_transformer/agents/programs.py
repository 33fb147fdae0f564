"""Compiles the programs of the transformer's agent: one program and one host array for each call.

An accelerator encodes a token of a small model faster than a host starts programs and copies
arrays. So each call packs all of its numbers into one array, and `act` draws the action in the
program that encodes the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents.base import LayerCache
from agentic_transformer.agents.cache import cached_attention
from agentic_transformer.config import ModelConfig
from agentic_transformer.models.heads import draw_action
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.models.transformer import AgenticTransformer

_SCALARS = 3  # position, temperature and noise


class NewTokens(NamedTuple):
    """Holds tokens to encode, and how the action after them is drawn."""

    features: jax.Array  # (batch, new, F) float32
    timestep: jax.Array  # (batch, new) int32
    position: jax.Array  # () int32, tokens in the cache before them
    temperature: jax.Array  # () float32
    noise: jax.Array  # () float32


class Programs(NamedTuple):
    """Holds compiled functions of (leaves of the parameters, cache, packed tokens, ...)."""

    extend: Callable
    """Returns the cache with the new tokens."""
    act: Callable
    """Takes a random key too. Returns actions (batch, A), and the cache with the new tokens. If the
    head is a mixture, the model's outputs follow each action: (batch, A + head_size)."""


def pack_tokens(
    features: np.ndarray,
    timestep: np.ndarray,
    position: int,
    temperature: float = 0.0,
    noise: float = 0.0,
) -> np.ndarray:
    """Returns the fields of `NewTokens` in one array of int32, bit for bit.

    Args:
        features: (batch, new, F) float32.
        timestep: (batch, new).
        position: tokens in the cache before the new ones.
        temperature: of the choice among components.
        noise: scale of the Gaussian.
    """
    return np.concatenate(
        [
            features.astype(np.float32).ravel().view(np.int32),
            timestep.ravel().astype(np.int32),
            np.array([position], np.int32),
            np.array([temperature, noise], np.float32).view(np.int32),
        ]
    )


def _unpack_tokens(packed: jax.Array, batch: int, feature_size: int) -> NewTokens:
    new = (packed.size - _SCALARS) // (batch * (feature_size + 1))
    of_features = batch * new * feature_size
    features, timestep, position, scales = jnp.split(
        packed, [of_features, of_features + batch * new, packed.size - _SCALARS + 1]
    )
    features, scales = (jax.lax.bitcast_convert_type(x, jnp.float32) for x in (features, scales))
    return NewTokens(
        features.reshape(batch, new, feature_size),
        timestep.reshape(batch, new),
        position[0],
        *scales,
    )


def _fewer_kernels(model: AgenticTransformer) -> AgenticTransformer:
    """Returns a model that computes the same with fewer kernels on an accelerator.

    XLA makes one kernel of a norm whose variance is E[(x - E x)^2], and two of E[x^2] - (E x)^2.
    """
    if jax.default_backend() != "cpu":
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.LayerNorm):
                module.use_fast_variance = False
    return model


def _to_host(array: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Moves an array to the host's memory within a program for one accelerator.

    It takes longer to fetch the array after the program, because the host asks for that copy only
    when it sees that the program has ended.
    """
    if jax.default_backend() == "cpu" or mesh is not None:
        return array
    return jax.device_put(array, jax.memory.Space.Host)


@lru_cache(maxsize=64)
def compiled_programs(
    graph: nnx.GraphDef,
    structure: jax.tree_util.PyTreeDef,
    model: ModelConfig,
    feature_size: int,
    mesh: Mesh | None,
) -> Programs:
    """Returns the programs of an agent; all agents of one structure share them.

    To hash a graph takes longer than to act once, so an agent asks for its programs once.

    Args:
        graph: structure of the model.
        structure: structure of its parameters.
        model: its settings.
        feature_size: size F of a token.
        mesh: devices over which the cache is sharded; None: one device.
    """

    def outputs_of(
        params: list[jax.Array], cache: tuple[LayerCache, ...], tokens: NewTokens
    ) -> tuple[jax.Array, tuple[LayerCache, ...]]:
        """Returns the model's outputs (batch, new, head_size), and the cache."""
        extended: list[LayerCache] = []

        def attend(layer: int, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            output, layer_cache = cached_attention(
                query, (key, value), cache[layer], tokens.position, mesh
            )
            extended.append(layer_cache)
            return output

        with matmul_precision(model.precision):
            whole = _fewer_kernels(nnx.merge(graph, jax.tree.unflatten(structure, params)))
            outputs = whole(tokens.features, tokens.timestep, attend)
        return outputs, tuple(extended)

    def unpack(cache: tuple[LayerCache, ...], packed: jax.Array) -> NewTokens:
        return _unpack_tokens(packed, cache[0][0].shape[0], feature_size)

    @partial(jax.jit, donate_argnames="cache")
    def extend(params: list, cache: tuple, packed: jax.Array) -> tuple[LayerCache, ...]:
        return outputs_of(params, cache, unpack(cache, packed))[1]

    @partial(jax.jit, donate_argnames="cache")
    def act(params: list, cache: tuple, packed: jax.Array, key: jax.Array) -> tuple:
        tokens = unpack(cache, packed)
        outputs, cache = outputs_of(params, cache, tokens)
        # The last new token is the one that predicts the step's action.
        key = jax.random.fold_in(key, tokens.timestep[0, -1])
        drawn = draw_action(model, outputs[:, -1], key, tokens.temperature, tokens.noise)
        if model.head == "mixture":
            drawn = jnp.concatenate([drawn, outputs[:, -1]], axis=1)  # one array for the host
        return _to_host(drawn, mesh), cache

    return Programs(extend, act)
