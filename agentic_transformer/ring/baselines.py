"""Defines the baselines of the ring: dense, memory efficient and blockwise attention.

JAX differentiates dense and memory efficient attention. All functions take arrays in the layout
order of a ring of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Unpack

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
from agentic_transformer.ring.mesh import map_without_mesh
from agentic_transformer.ring.nonfinite import mark_keys, zero_nonfinite
from agentic_transformer.ring.options import DenseOptions, check_options
from agentic_transformer.ring.padding import attend_within_lengths, clipped
from agentic_transformer.ring.precision import resolve_precision
from agentic_transformer.ring.shard import attend_shard
from agentic_transformer.ring.validation import check_attention, check_window

CHUNK = 1024
"""Tokens in a chunk of memory efficient attention."""


def dense_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, **options: Unpack[DenseOptions]
) -> jax.Array:
    """Computes attention by the whole matrix of scores, in memory quadratic in the sequence.

    Scores and sums are float32, or of query's dtype if that is wider.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring_size`, so even.
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        **options: causal, segment_ids, window, length and precision, as in `attention`; layout
            ("contiguous" by default) and ring_size, that of the layout only.

    Returns:
        (batch, sequence, heads, head_dim).

    Raises:
        ValueError: as `attention`.
    """
    check_options("dense_attention", options, DenseOptions)
    return _attend_checked(dense, query, key, value, **options)


def memory_efficient_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, **options: Unpack[DenseOptions]
) -> jax.Array:
    """Computes attention by chunks with a running softmax, rematerialised in the backward pass.

    Rabe and Staats 2021, "Self-attention does not need O(n^2) memory" (arXiv 2112.05682): every
    pair of chunks is computed and masked.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring_size`, so even.
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        **options: as in `dense_attention`.

    Returns:
        (batch, sequence, heads, head_dim).

    Raises:
        ValueError: as `attention`.
    """
    check_options("memory_efficient_attention", options, DenseOptions)
    return _attend_checked(memory_efficient, query, key, value, **options)


def _attend_checked(
    backbone: Callable[..., jax.Array],
    query,
    key,
    value,
    *,
    ring_size: int = 1,
    layout: str = "contiguous",
    segment_ids: jax.Array | None = None,
    length: jax.Array | int | None = None,
    precision: str | None = None,
    **options: Any,
) -> jax.Array:
    """Checks the arguments and calls a backbone without a mesh."""
    config = RingConfig(None, ring_size, None, layout=layout, **options)
    causal, window = config.causal, config.window
    check_attention(query, key, value, segment_ids, causal=causal, window=window, length=length)
    # Python's own types: programs are cached by the configuration.
    window = check_window(window, causal=causal)
    config = config._replace(
        causal=bool(causal), window=window, precision=resolve_precision(precision)
    )
    return _compiled(backbone, config)(query, key, value, segment_ids, length)


@lru_cache(maxsize=256)
def _compiled(backbone: Callable[..., jax.Array], config: RingConfig) -> Callable[..., jax.Array]:
    """Returns a jitted backbone: `(query, key, value, segment_ids, length) -> output`."""

    def attend(*arrays: jax.Array | None) -> jax.Array:
        with jax.default_matmul_precision(config.precision):
            return backbone(config, *arrays)

    return jax.jit(map_without_mesh(attend))


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
    query_chunks = (
        split(grouped),
        QueryIntervals(
            split(queries.low, 0), split(queries.high, 0, fill=-1), split(queries.segment)
        ),
    )
    key_chunks = (
        split(key),
        split(value),
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
        step = jax.checkpoint(partial(_softmax_step, query, queries))
        (_, denominator, numerator), _ = lax.scan(step, state, key_chunks)
        return numerator / jnp.where(denominator > 0, denominator, 1)[..., None]

    output = lax.map(attend, query_chunks)
    # (chunks, batch, key_heads, group, chunk, head_dim) -> (batch, sequence, heads, head_dim)
    output = output.transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, *query.shape[2:])
    return output[:, :sequence].astype(query.dtype)


def _softmax_step(query, queries: QueryIntervals, state, key_chunk) -> tuple[tuple, None]:
    """Continues an online softmax (m, l, O) with a chunk of keys: see `kernels/reference.py`."""
    (old_max, denominator, numerator), (key, value, keys) = state, key_chunk
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
