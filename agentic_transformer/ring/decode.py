"""Attention of new tokens to a cache of keys and values that is sharded over the ring.

With few queries it is they that should travel: keys and values stay where they are, every device attends to its own part of
the cache, and the partial outputs are merged by one maximum and one sum over the ring (arXiv 2310.01889, appendix C,
circulates the cache instead).
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from agentic_transformer.ring.checks import batch_shards, check_shards, ring_size_of
from agentic_transformer.ring.kernel import LOWEST
from agentic_transformer.ring.layout import check_layout, shard_positions


def decode_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    position: jax.Array,
    *,
    mesh: Mesh,
    axis: str = "ring",
    batch_axis: str | None = None,
    layout: str = "zigzag",
    window: int | None = None,
) -> jax.Array:
    """Attention of a few new tokens to a sharded cache that already holds their own keys and values.

    Args:
        query: (batch, tokens, heads, head_dim), one or a few tokens, not sharded over the ring.
        key: (batch, capacity, key_heads, head_dim), the cache, in the layout order of a sequence of `capacity`.
        value: as key.
        position: (batch, tokens) int32, natural position of each new token: it sees the cache up to and including it.
        mesh: the devices.
        axis: the mesh axis over which the cache is sharded.
        batch_axis: the mesh axis over which the batch is sharded.
        layout: the order of the cache, "zigzag" or "contiguous".
        window: a token sees the last `window` positions only, its own included.

    Returns:
        (batch, tokens, heads, head_dim) of query's dtype; a token that sees nothing (position < 0) gives 0.
    """
    check_layout(layout)
    check_shards(key.shape[0], key.shape[1], mesh, axis, batch_axis)
    if key.shape != value.shape or key.shape[0] != query.shape[0] or key.shape[3] != query.shape[3]:
        raise ValueError(f"query {query.shape}, key {key.shape} and value {value.shape} must agree in batch and head_dim")
    if query.shape[2] % key.shape[2]:
        raise ValueError(f"{query.shape[2]} query heads cannot be grouped over {key.shape[2]} key heads")
    if position.shape != query.shape[:2]:
        raise ValueError(f"position {position.shape} must be (batch, tokens) = {query.shape[:2]}")
    return _decode(mesh, axis, batch_axis, layout, window)(query, key, value, position)


def write_cache(
    cache: jax.Array,
    new: jax.Array,
    position: jax.Array,
    *,
    mesh: Mesh,
    axis: str = "ring",
    batch_axis: str | None = None,
    layout: str = "zigzag",
) -> jax.Array:
    """Writes the keys or values of new tokens into a sharded cache; each device writes what falls into its own part.

    Args:
        cache: (batch, capacity, key_heads, head_dim) in layout order.
        new: (batch, tokens, key_heads, head_dim).
        position: (batch, tokens) int32, natural position of each new token; those outside 0..capacity-1 are not written.
        mesh: the devices.
        axis: the mesh axis over which the cache is sharded.
        batch_axis: the mesh axis over which the batch is sharded.
        layout: the order of the cache.

    Returns:
        The cache with the tokens in place.
    """
    check_layout(layout)
    check_shards(cache.shape[0], cache.shape[1], mesh, axis, batch_axis)
    return _write(mesh, axis, batch_axis, layout)(cache, new, position)


@lru_cache
def _decode(mesh: Mesh, axis: str, batch_axis: str | None, layout: str, window: int | None):
    ring_size = ring_size_of(mesh, axis)
    batch_shards(mesh, batch_axis)

    def local(query, key, value, position):
        batch, tokens, heads, head_dim = query.shape
        at = shard_positions(lax.axis_index(axis), key.shape[1], ring_size, layout)
        mask = at <= position[..., None]  # (batch, tokens, keys)
        if window is not None:
            mask &= at > position[..., None] - window
        grouped = query.reshape(batch, tokens, key.shape[2], -1, head_dim)
        scores = jnp.einsum("btghd,bkgd->bghtk", grouped, key, preferred_element_type=jnp.float32) * head_dim**-0.5
        scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
        largest = lax.pmax(jnp.maximum(scores.max(axis=-1), LOWEST), axis)
        weights = jnp.exp(scores - largest[..., None])
        sums = jnp.einsum("bghtk,bkgd->bghtd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
        sums, total = lax.psum((sums, weights.sum(axis=-1)), axis)
        output = sums / jnp.where(total > 0, total, 1)[..., None]
        return output.transpose(0, 3, 1, 2, 4).reshape(query.shape).astype(query.dtype)

    here, sharded = PartitionSpec(batch_axis), PartitionSpec(batch_axis, axis)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(here, sharded, sharded, here), out_specs=here, check_vma=False))


@lru_cache
def _write(mesh: Mesh, axis: str, batch_axis: str | None, layout: str):
    ring_size = ring_size_of(mesh, axis)

    def local(cache, new, position):
        index, tokens = lax.axis_index(axis), cache.shape[1]
        half = tokens // 2
        block, within = position // half, position % half
        first, second = (index, 2 * ring_size - 1 - index) if layout == "zigzag" else (2 * index, 2 * index + 1)
        place = jnp.where(block == first, within, jnp.where(block == second, half + within, tokens))
        row = jnp.arange(cache.shape[0])[:, None]
        return cache.at[row, place].set(new.astype(cache.dtype), mode="drop")

    here, sharded = PartitionSpec(batch_axis), PartitionSpec(batch_axis, axis)
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(sharded, here, here), out_specs=sharded, check_vma=False))
