"""Attends to a key/value cache, on one device or sharded over a ring.

Contexts of a batch advance together, so one position serves all of them.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from agentic_transformer.agents.base import LayerCache
from agentic_transformer.config import ModelConfig
from agentic_transformer.ring import decode_attention, write_cache
from agentic_transformer.training.sharding import DATA, RING

_MAX_SCORES = 2**28
"""Attention scores that may be held at once, over all rows, heads, new tokens and the cache: 1 GiB
in float32."""


def empty_cache(
    config: ModelConfig, batch: int, capacity: int, mesh: Mesh | None, sharding: Sharding
) -> tuple[LayerCache, ...]:
    """Returns an empty cache for all layers.

    Args:
        config: sizes and type of keys and values.
        batch: number of environments.
        capacity: tokens that each context can hold.
        mesh: devices over whose ring the capacity is sharded, and over whose data axis the batch;
            None: one device.
        sharding: where the cache lies without a mesh.

    Raises:
        ValueError: the batch does not divide over the mesh.
    """
    if mesh is not None:
        if batch % mesh.shape[DATA]:
            raise ValueError(
                f"a batch of size {batch} does not divide over the {mesh.shape[DATA]} "
                "devices of the mesh's data axis; allowed: a multiple of them, see envs.make_vec"
            )
        blocks = 2 * mesh.shape[RING]  # every device of a ring holds two blocks of equal size
        capacity = -(-capacity // blocks) * blocks
        sharding = NamedSharding(mesh, PartitionSpec(DATA, RING))
    shape = (batch, capacity, config.heads, config.width // config.heads)
    empty = partial(jnp.zeros, shape, jnp.dtype(config.dtype), device=sharding)
    return tuple((empty(), empty()) for _ in range(config.layers))


def tokens_at_once(cache: tuple[LayerCache, ...], mesh: Mesh | None) -> int:
    """Returns how many new tokens may be encoded at once, so that their scores fit in memory.

    Args:
        cache: keys and values of all layers.
        mesh: devices over which the cache is sharded; None: one device.
    """
    batch, capacity, heads, _ = cache[0][0].shape
    if mesh is not None:
        batch, capacity = batch // mesh.shape[DATA], capacity // mesh.shape[RING]
    elif jax.default_backend() == "cpu":
        batch = 1  # see `_attend_on_one_device`
    return max(1, _MAX_SCORES // (batch * heads * capacity))


def cached_attention(
    query: jax.Array, new: LayerCache, cache: LayerCache, position: jax.Array, mesh: Mesh | None
) -> tuple[jax.Array, LayerCache]:
    """Writes new keys and values to a layer's cache, and attends to the cache up to each query.

    Args:
        query: (batch, new, heads, head_dim) of the new tokens.
        new: keys and values of the new tokens, each of that shape.
        cache: keys and values of the layer, each (batch, capacity, heads, head_dim).
        position: tokens in the cache before the new ones.
        mesh: devices over which the cache is sharded; None: one device.

    Returns:
        The attention's output (batch, new, heads, head_dim), and the cache with the new tokens.
    """
    if mesh is None:
        return _attend_on_one_device(query, new, cache, position)
    return _attend_on_ring(mesh, query, new, cache, position)


def _attend_on_one_device(
    query: jax.Array, new: LayerCache, cache: LayerCache, position: jax.Array
) -> tuple[jax.Array, LayerCache]:
    keys, values = (
        jax.lax.dynamic_update_slice_in_dim(old, x, position, axis=1)
        for old, x in zip(cache, new, strict=True)
    )
    # Query i stands at `position + i` and sees the cache up to and with itself: (capacity, new)
    visible = jnp.arange(keys.shape[1])[:, None] <= position + jnp.arange(query.shape[1])[None, :]

    def attend_row(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        query, keys, values = row  # each (tokens, heads, head_dim)
        products = jnp.einsum("qhd,khd->hkq", query, keys, preferred_element_type=jnp.float32)
        scores = products * query.shape[-1] ** -0.5  # (heads, capacity, new)
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=1)
        return jnp.einsum("hkq,khd->qhd", weights.astype(values.dtype), values)

    # A CPU takes one row at a time: for a whole batch, XLA's backend would first make a transposed
    # copy of the cache.
    rows_at_once = None if jax.default_backend() == "cpu" else len(query)
    output = jax.lax.map(attend_row, (query, keys, values), batch_size=rows_at_once)
    return output, (keys, values)


def _attend_on_ring(
    mesh: Mesh, query: jax.Array, new: LayerCache, cache: LayerCache, position: jax.Array
) -> tuple[jax.Array, LayerCache]:
    """Attends like `_attend_on_one_device`; the cache stays where it lies, queries travel to it."""
    where = {"mesh": mesh, "axis": RING, "batch_axis": DATA, "layout": "contiguous"}
    positions = jnp.broadcast_to(position + jnp.arange(query.shape[1]), query.shape[:2])
    keys, values = (
        write_cache(old, x, positions, **where) for old, x in zip(cache, new, strict=True)
    )
    return decode_attention(query, keys, values, positions, **where), (keys, values)
