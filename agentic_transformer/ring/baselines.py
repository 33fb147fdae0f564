"""Defines the baselines of the ring: dense, memory efficient and blockwise attention.

JAX differentiates dense and memory efficient attention. All functions take arrays in the layout
order of a ring of any size.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.layout import from_layout, positions, to_layout
from agentic_transformer.ring.masks import (
    MASK_VALUE,
    PAD_POSITION,
    KeyPositions,
    QueryIntervals,
    query_intervals,
    visible,
)
from agentic_transformer.ring.nonfinite import mark_keys, zero_nonfinite
from agentic_transformer.ring.padding import attend_within_lengths, clipped
from agentic_transformer.ring.shard import attend_shard

CHUNK = 1024
"""Tokens in a chunk of memory efficient attention."""


def dense(config: RingConfig, query, key, value, segment_ids, length) -> jax.Array:
    """Computes `dense_attention`; the arguments are checked."""
    return _attend_within_lengths(_dense, config, query, key, value, segment_ids, length)


def memory_efficient(config: RingConfig, query, key, value, segment_ids, length) -> jax.Array:
    """Computes `memory_efficient_attention`; the arguments are checked."""
    return _attend_within_lengths(_memory_efficient, config, query, key, value, segment_ids, length)


def blockwise(config: RingConfig, query, key, value, segment_ids, length) -> jax.Array:
    """Computes one device's blockwise attention to a whole sequence in a ring's layout order."""

    def reorder(array: jax.Array | None) -> jax.Array | None:
        return None if array is None else from_layout(array, config.ring_size, config.layout)

    alone = config._replace(axis=None, ring_size=1)
    output = attend_shard(alone, *map(reorder, (query, key, value, segment_ids)), length)
    return to_layout(output, config.ring_size, config.layout)


def _attend_within_lengths(
    function, config: RingConfig, query, key, value, segment_ids, length
) -> jax.Array:
    """Applies `function(query, key, value, queries, keys)`; padding is a segment of its own."""
    position = jnp.asarray(positions(query.shape[1], config.ring_size, config.layout))

    def attend(query, key, value, segment_ids):
        queries = query_intervals(
            position, segment_ids, causal=config.causal, window=config.window, length=None
        )
        return function(query, key, value, queries, KeyPositions(position, segment_ids))

    if length is None:
        return attend(query, key, value, segment_ids)
    length = jnp.broadcast_to(clipped(length, 0, query.shape[1]), query.shape[0])
    return attend_within_lengths(attend, (query, key, value), segment_ids, position, length)


def _dense(query, key, value, queries: QueryIntervals, keys: KeyPositions) -> jax.Array:
    batch, sequence, _, head_dim = query.shape
    key, value = mark_keys(key, value), zero_nonfinite(value)
    mask = visible(queries, keys)[:, None, None]  # (1 or batch, 1, 1, queries, keys)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    einsum = partial(jnp.einsum, preferred_element_type=wide)
    grouped = query.reshape(batch, sequence, key.shape[2], -1, head_dim)
    # (batch, key_heads, group, queries, keys)
    scores = einsum("bqghd,bkgd->bghqk", grouped, key) * head_dim**-0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, MASK_VALUE), axis=-1)
    weights = jnp.where(mask, weights, 0).astype(value.dtype)
    output = einsum("bghqk,bkgd->bqghd", weights, value)
    return output.reshape(query.shape).astype(query.dtype)


def _memory_efficient(query, key, value, queries: QueryIntervals, keys: KeyPositions) -> jax.Array:
    batch, sequence, _, head_dim = query.shape
    # As many chunks as are needed, of one size: the last one is padded by less than a token each.
    chunk = -(-sequence // -(-sequence // CHUNK))
    split = partial(_split_chunks, chunk)
    grouped = query.reshape(batch, sequence, key.shape[2], -1, head_dim)
    # JAX sums gradients over chunks in the type of what the chunks are cut from: so that is wide.
    dtype, wide = query.dtype, jnp.promote_types(query.dtype, jnp.float32)
    query_chunks = (
        split(grouped),
        QueryIntervals(
            split(queries.low, 0), split(queries.high, 0, fill=-1), split(queries.segment)
        ),
    )
    key_chunks = (
        split(key.astype(wide)),
        split(value.astype(wide)),
        KeyPositions(split(keys.position, 0, fill=PAD_POSITION), split(keys.segment)),
    )

    @jax.checkpoint
    def attend(chunk_of_queries: tuple[jax.Array, QueryIntervals]) -> jax.Array:
        query, queries = chunk_of_queries
        rows = (batch, *query.shape[2:4], chunk)  # (batch, key_heads, group, queries)
        zero = jnp.zeros_like(query, jnp.float32, shape=rows)
        state = (
            jnp.full_like(zero, MASK_VALUE),
            zero,
            jnp.zeros_like(query, jnp.float32, shape=(*rows, head_dim)),
        )
        step = jax.checkpoint(partial(_softmax_step, query.astype(wide), queries, dtype))
        (_, denominator, numerator), _ = lax.scan(step, state, key_chunks)
        return numerator / jnp.where(denominator > 0, denominator, 1)[..., None]

    output = lax.map(attend, query_chunks)
    # (chunks, batch, key_heads, group, chunk, head_dim) -> (batch, sequence, heads, head_dim)
    output = output.transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, *query.shape[2:])
    return output[:, :sequence].astype(query.dtype)


def _softmax_step(
    query, queries: QueryIntervals, dtype: jnp.dtype, state, key_chunk
) -> tuple[tuple, None]:
    """Continues an online softmax (m, l, O) with a chunk of keys: see `kernels/reference.py`.

    Products have factors of `dtype`.
    """
    (old_max, denominator, numerator), (key, value, keys) = state, key_chunk
    query, key, value = (x.astype(dtype) for x in (query, key, value))
    einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
    # Not before the scan: so the marked copies of only one chunk are held at a time.
    key, value = mark_keys(key, value), zero_nonfinite(value)
    mask = visible(queries, keys)[:, None, None]
    scores = einsum("bqghd,bkgd->bghqk", query, key) * query.shape[-1] ** -0.5
    scores = jnp.where(mask, scores, MASK_VALUE)
    new_max = lax.stop_gradient(jnp.maximum(old_max, scores.max(axis=-1)))
    weights = jnp.where(mask, jnp.exp(scores - new_max[..., None]), 0)
    decay = jnp.exp(old_max - new_max)
    more = einsum("bghqk,bkgd->bghqd", weights.astype(value.dtype), value)
    denominator = denominator * decay + weights.sum(axis=-1)
    return (new_max, denominator, numerator * decay[..., None] + more), None


def _split_chunks(
    chunk: int, array: jax.Array | None, axis: int = 1, fill: int = 0
) -> jax.Array | None:
    """Splits (..., sequence, ...) -> (chunks, ..., chunk, ...); the last chunk is padded."""
    if array is None:
        return None
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % chunk)
    array = jnp.pad(array, widths, constant_values=fill)
    shape = (*array.shape[:axis], -1, chunk, *array.shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(shape), axis, 0)
