"""Attention on one device as others do it, to compare with: dense, and memory efficient.

Both differentiate by JAX's own means and take what `ring_attention` takes, in the layout order of a
ring of any size.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from agentic_transformer.ring.checks import check_attention
from agentic_transformer.ring.hidden import cleared, marked, with_lengths
from agentic_transformer.ring.kernel import LOWEST
from agentic_transformer.ring.layout import positions
from agentic_transformer.ring.placement import without_mesh
from agentic_transformer.ring.visibility import Keys, Queries, queries_at, visible

CHUNK = 1024


def dense_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool = True,
    layout: str = "contiguous",
    ring_size: int = 1,
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
) -> jax.Array:
    """Attention by the whole matrix of scores, in float32 or query's dtype if that is wider.

    Memory is quadratic in the sequence. The arguments and errors are `ring_attention`'s;
    `ring_size` is that of the layout only.
    """
    setting = {"causal": causal, "window": window, "layout": layout, "ring_size": ring_size}
    return _checked(_dense, query, key, value, segment_ids, length, **setting)


def memory_efficient_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool = True,
    layout: str = "contiguous",
    ring_size: int = 1,
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
) -> jax.Array:
    """Attention by chunks of queries and keys with a running softmax, rematerialised in the
    backward pass.

    Rabe and Staats 2021, "Self-attention does not need O(n^2) memory" (arXiv 2112.05682): every
    pair of chunks is computed and masked. The arguments and errors are `ring_attention`'s;
    `ring_size` is that of the layout only.
    """
    setting = {"causal": causal, "window": window, "layout": layout, "ring_size": ring_size}
    return _checked(_memory_efficient, query, key, value, segment_ids, length, **setting)


def _checked(
    function: Callable[..., jax.Array],
    query,
    key,
    value,
    segment_ids,
    length,
    *,
    causal,
    window,
    layout,
    ring_size,
) -> jax.Array:
    """Checks the arguments, and applies `function(query, key, value, queries, keys)` to what has no
    padding.
    """
    check_attention(query, key, value, segment_ids, causal=causal, window=window, length=length)
    at = jnp.asarray(positions(query.shape[1], ring_size, layout))

    def within(query, key, value, segment_ids):
        queries = queries_at(at, segment_ids, causal=causal, window=window, length=None)
        return function(query, key, value, queries, Keys(at, segment_ids))

    def attend(query, key, value, segment_ids, length):
        if length is None:
            return within(query, key, value, segment_ids)
        length = jnp.broadcast_to(length, query.shape[0])
        return with_lengths(within, (query, key, value), segment_ids, at, length)

    return without_mesh(attend)(query, key, value, segment_ids, length)


def _dense(query, key, value, queries: Queries, keys: Keys) -> jax.Array:
    batch, sequence, heads, head_dim = query.shape
    key, value = marked(key, value), cleared(value)
    mask = visible(queries, keys)[:, None, None]  # (1 or batch, 1, 1, queries, keys)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    grouped = query.reshape(batch, sequence, key.shape[2], -1, head_dim)
    scores = (
        jnp.einsum("bqghd,bkgd->bghqk", grouped, key, preferred_element_type=wide) * head_dim**-0.5
    )
    scores = jnp.where(mask, scores, LOWEST)
    weights = jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0).astype(value.dtype)
    output = jnp.einsum("bghqk,bkgd->bqghd", weights, value, preferred_element_type=wide)
    return output.reshape(query.shape).astype(query.dtype)


def _memory_efficient(query, key, value, queries: Queries, keys: Keys) -> jax.Array:
    batch, sequence, heads, head_dim = query.shape
    chunk = max(size for size in range(1, min(CHUNK, sequence) + 1) if sequence % size == 0)

    def chunks(array: jax.Array | None, axis: int = 1) -> jax.Array | None:
        """(..., sequence, ...) -> (chunks, ..., chunk, ...)."""
        if array is None:
            return None
        return jnp.moveaxis(
            array.reshape(*array.shape[:axis], -1, chunk, *array.shape[axis + 1 :]), axis, 0
        )

    grouped = query.reshape(batch, sequence, key.shape[2], -1, head_dim)
    key_chunks = (chunks(key), chunks(value), Keys(chunks(keys.position, 0), chunks(keys.segment)))

    @jax.checkpoint
    def attend(ours: jax.Array, mine: Queries) -> jax.Array:
        @jax.checkpoint
        def step(carry, theirs):
            largest, total, sums = (
                carry  # (batch, groups, heads, queries), the same, and with head_dim
            )
            keys, values, at = theirs
            keys, values = (
                marked(keys, values),
                cleared(values),
            )  # here, so that one chunk of copies is held
            mask = visible(mine, at)[:, None, None]
            scores = (
                jnp.einsum("bqghd,bkgd->bghqk", ours, keys, preferred_element_type=jnp.float32)
                * head_dim**-0.5
            )
            scores = jnp.where(mask, scores, LOWEST)
            now = lax.stop_gradient(jnp.maximum(largest, scores.max(axis=-1)))
            weights = jnp.where(mask, jnp.exp(scores - now[..., None]), 0)
            decay = jnp.exp(largest - now)
            more = jnp.einsum(
                "bghqk,bkgd->bghqd",
                weights.astype(values.dtype),
                values,
                preferred_element_type=jnp.float32,
            )
            return (now, total * decay + weights.sum(axis=-1), sums * decay[..., None] + more), None

        zero = jnp.zeros((batch, *grouped.shape[2:4], chunk), jnp.float32)
        start = (jnp.full_like(zero, LOWEST), zero, jnp.zeros((*zero.shape, head_dim), jnp.float32))
        (_, total, sums), _ = lax.scan(step, start, key_chunks)
        return sums / jnp.where(total > 0, total, 1)[..., None]

    mine = Queries(chunks(queries.low, 0), chunks(queries.high, 0), chunks(queries.segment))
    output = lax.map(
        lambda args: attend(*args), (chunks(grouped), mine)
    )  # (chunks, batch, groups, heads, chunk, head_dim)
    return output.transpose(1, 0, 4, 2, 3, 5).reshape(query.shape).astype(query.dtype)
