"""Attends from new tokens to a cache of keys and values that is sharded over the ring.

Queries are few here, so keys and values stay where they are. Every device attends to its own part
of the cache, and one maximum and one sum over the ring merge the partial outputs:

    m = pmax_i m_i,  O = psum_i sum_j exp(s_ij - m) v_ij / psum_i sum_j exp(s_ij - m)

The paper (arXiv 2310.01889, appendix C) circulates the cache instead.
"""

from __future__ import annotations

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from agentic_transformer.ring.layout import check_layout, shard_blocks, shard_positions
from agentic_transformer.ring.masks import MASK_VALUE, PAD_POSITION
from agentic_transformer.ring.mesh import check_devices, map_over_devices
from agentic_transformer.ring.nonfinite import finite_tokens, zero_nonfinite
from agentic_transformer.ring.padding import clipped
from agentic_transformer.ring.precision import resolve_precision
from agentic_transformer.ring.validation import (
    check_floats,
    check_heads,
    check_integers,
    check_mesh,
    check_shards,
    check_window,
    ring_size_of,
)

INT32 = -(2**31), 2**31 - 1
"""Smallest and largest int32, the type in which positions are compared."""


def decode_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    position: jax.Array,
    *,
    mesh: Mesh | AbstractMesh,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    layout: str = "zigzag",
    window: int | None = None,
    precision: str | None = None,
) -> jax.Array:
    """Attends from a few new tokens to a sharded cache that holds their own keys and values.

    Slots of the cache that a token does not see change no bit of its output, even if they hold NaN.
    The query's gradient has no such guard: a NaN in a hidden key makes it NaN.

    Args:
        query: (batch, tokens, heads, head_dim), one or a few tokens, not sharded over the ring.
        key: (batch, capacity, key_heads, head_dim), the cache, in the layout order of a sequence of
            `capacity`; its dtype may be another than query's.
        value: as key.
        position: (batch, tokens) integers, natural position of each new token. A token sees the
            cache up to its own position, included. Values of a numpy array must be less than
            capacity. Values of a JAX array are not checked: a token at a larger position sees the
            whole cache, as far as `window` allows.
        mesh: the devices, as in `ring_attention`.
        axis: the mesh axis over which the cache is sharded.
        batch_axis: the mesh axis over which the batch is sharded.
        layout: the order of the cache, "zigzag" or "contiguous".
        window: a token sees the last `window` positions only, its own included.
        precision: of float32 matrix products, as in `attention`.

    Returns:
        (batch, tokens, heads, head_dim) of query's dtype; a token that sees nothing (position < 0)
        gives 0.

    Raises:
        ValueError: for arguments other than these.
    """
    check_layout(layout)
    check_mesh(mesh)
    check_heads(query, key, value)
    capacity = key.shape[1]
    tokens = query.shape[:2]
    check_integers("position", position, ("batch", "tokens"), tokens, most=capacity - 1)
    window = check_window(window, causal=True)  # a Python integer: in the key of `_decode`
    check_shards(*key.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, query=query, key=key, value=value, position=position)
    precision = resolve_precision(precision)
    decode = _decode(mesh, axis, batch_axis, layout, window, precision)
    return decode(query, key, value, position)


def write_cache(
    cache: jax.Array,
    new: jax.Array,
    position: jax.Array,
    *,
    mesh: Mesh | AbstractMesh,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    layout: str = "zigzag",
) -> jax.Array:
    """Writes the keys or values of new tokens into a sharded cache, each device into its part.

    Args:
        cache: (batch, capacity, key_heads, head_dim) in layout order.
        new: (batch, tokens, key_heads, head_dim), converted to the cache's dtype.
        position: (batch, tokens) integers, natural position of each new token; those outside
            0..capacity-1 are not written.
        mesh: the devices, as in `ring_attention`.
        axis: the mesh axis over which the cache is sharded.
        batch_axis: the mesh axis over which the batch is sharded.
        layout: the order of the cache.

    Returns:
        The cache with the tokens in place.

    Raises:
        ValueError: for arguments other than these.
    """
    check_layout(layout)
    check_mesh(mesh)
    check_floats(("batch", "sequence", "heads", "head_dim"), cache=cache, new=new)
    if (new.shape[0], *new.shape[2:]) != (cache.shape[0], *cache.shape[2:]):
        raise ValueError(
            f"new {new.shape} must have the batch, heads and head_dim of cache {cache.shape}"
        )
    check_integers("position", position, ("batch", "tokens"), new.shape[:2])
    check_shards(*cache.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, cache=cache, new=new, position=position)
    return _write(mesh, axis, batch_axis, layout)(cache, new, position)


@lru_cache(maxsize=256)
def _decode(mesh, axis, batch_axis, layout, window, precision):
    ring_size = ring_size_of(mesh, axis)

    def local(query, key, value, position):
        batch, tokens, _, head_dim = query.shape
        key_position = shard_positions(lax.axis_index(axis), key.shape[1], ring_size, layout)
        position = clipped(position, *INT32)[..., None]
        mask = key_position <= position  # (batch, tokens, keys)
        if window is not None:
            mask &= key_position > position - min(window, PAD_POSITION)
        mask = mask[:, None, None]  # (batch, 1, 1, tokens, keys), as scores
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
        grouped = query.reshape(batch, tokens, key.shape[2], -1, head_dim)
        # (batch, key_heads, group, tokens, keys)
        scores = einsum("btghd,bkgd->bghtk", grouped, key) * head_dim**-0.5
        scores = jnp.where(mask, scores, -jnp.inf)
        # The output does not depend on what is subtracted, and JAX has no gradient of pmax.
        max_score = lax.stop_gradient(jnp.maximum(scores.max(axis=-1), MASK_VALUE))
        max_score = lax.pmax(max_score, axis)
        weights = jnp.exp(scores - max_score[..., None])
        numerator = _weighted_values(weights, mask, value)
        numerator, denominator = lax.psum((numerator, weights.sum(axis=-1)), axis)
        output = numerator / jnp.where(denominator > 0, denominator, 1)[..., None]
        return output.transpose(0, 3, 1, 2, 4).reshape(query.shape).astype(query.dtype)

    def local_in_precision(*arrays: jax.Array) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return local(*arrays)

    rows, tokens = PartitionSpec(batch_axis), PartitionSpec(batch_axis, axis)
    return jax.jit(map_over_devices(local_in_precision, mesh, (rows, tokens, tokens, rows), rows))


def _weighted_values(weights, mask, value):
    """Returns weighted sums of values, (batch, key_heads, group, tokens, head_dim).

    Weights and mask are (batch, key_heads, group, tokens, keys), values (batch, keys, key_heads,
    head_dim).

    A hidden value that is not finite makes the product NaN. Then the product is computed again
    without such values. To look for them first would read the cache twice for every token.
    """
    product = partial(jnp.einsum, "bghtk,bkgd->bghtd", preferred_element_type=jnp.float32)
    sums = product(weights.astype(value.dtype), value)

    def without_hidden():
        seen = mask & ~finite_tokens(value).transpose(0, 2, 1)[:, :, None, None]
        marked = jnp.where(seen, jnp.nan, weights).astype(value.dtype)
        return product(marked, zero_nonfinite(value))

    return lax.cond(jnp.isfinite(sums).all(), lambda: sums, without_hidden)


@lru_cache(maxsize=256)
def _write(mesh, axis, batch_axis, layout):
    ring_size = ring_size_of(mesh, axis)

    def local(cache, new, position):
        tokens = cache.shape[1]
        half = tokens // 2
        position = clipped(position, *INT32)
        block, within = position // half, position % half
        first, second = shard_blocks(lax.axis_index(axis), ring_size, layout)
        # Slot of each new token in this device's part; `tokens`, out of range, if elsewhere.
        slot = jnp.where(block == second, half + within, tokens)
        slot = jnp.where(block == first, within, slot)
        row = jnp.arange(cache.shape[0])[:, None]
        # XLA merges a write outside of this part with the cut of a whole cache into parts, and then
        # reads the next device's part. The barrier keeps the two apart.
        cache = lax.optimization_barrier(cache)
        return cache.at[row, slot].set(new.astype(cache.dtype), mode="drop")

    rows, tokens = PartitionSpec(batch_axis), PartitionSpec(batch_axis, axis)
    return jax.jit(map_over_devices(local, mesh, (tokens, rows, rows), tokens))
