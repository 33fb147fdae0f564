"""The block kernel in plain JAX, for any platform; measured and tuned on CPUs.

It works on scores transposed, (keys, queries): reductions over keys then run across vector lanes instead of along them. A small block is
one batched product. A large one is cut into chunks; pairs of chunks that see nothing of each other are never visited, pairs
that see each other wholly are computed without a mask.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from agentic_transformer.ring.kernel import LOWEST, BlockKernel
from agentic_transformer.ring.visibility import Keys, Queries, chunk_pairs, visible


class Chunks(NamedTuple):
    """Tokens in a chunk, of queries and of keys alike, forward and backward; a block of up to `whole` keys is not cut."""

    forward: int = 512
    backward: int = 256
    whole: int = 256


def plain_kernel(platform: str, chunks: Chunks = Chunks()) -> BlockKernel:
    """The block kernel in plain JAX.

    Args:
        platform: that of the devices. On "cpu" one (batch, head) row is taken at a time, whose chunks then stay in a core's cache;
            elsewhere all rows in one batched product.
        chunks: chunk sizes, the same on every device.
    """
    rowwise = platform == "cpu"
    return BlockKernel(partial(_forward, chunks, rowwise), partial(_backward, chunks, rowwise), partial(_padded, chunks))


def _padded(chunks: Chunks, half: int) -> int:
    """Half a block padded so that it divides into equal chunks of a multiple of 32 tokens, as near below the wanted size as may be."""
    if 2 * half <= chunks.whole:
        return half
    parts = -(-half // chunks.forward)
    return parts * 32 * -(-half // (32 * parts))


def _chunk(wanted: int, queries: int, keys: int) -> int:
    """The largest chunk, no larger than wanted, that divides half of the queries and of the keys."""
    shared = math.gcd(queries // 2, keys // 2)
    return max(size for size in range(1, wanted + 1) if shared % size == 0)


def _forward(
    chunks: Chunks, rowwise: bool, query: jax.Array, key: jax.Array, value: jax.Array, queries: Queries, keys: Keys
) -> tuple[jax.Array, jax.Array]:
    if key.shape[2] <= chunks.whole:
        return _whole_forward(query, key, value, queries, keys)
    size = _chunk(chunks.forward, query.shape[2], key.shape[2])
    return _by_rows(partial(_chunked_forward, size), rowwise, (query, key, value), queries, keys)


def _backward(
    chunks: Chunks,
    rowwise: bool,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: Queries,
    keys: Keys,
    cotangent: jax.Array,
    lse: jax.Array,
    delta: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    if key.shape[2] <= chunks.whole:
        return _whole_backward(query, key, value, queries, keys, cotangent, lse, delta)
    size = _chunk(chunks.backward, query.shape[2], key.shape[2])
    return _by_rows(partial(_chunked_backward, size), rowwise, (query, key, value, cotangent, lse, delta), queries, keys)


def _by_rows(function, rowwise, arrays, queries: Queries, keys: Keys):
    """Applies `function(queries, keys, *arrays)` to arrays (batch, heads, ...) laid out as (rows, ...): all rows, or one at a time."""
    batch, heads = arrays[0].shape[:2]
    segments = None
    if queries.segment is not None:
        segments = tuple(jnp.repeat(segment, heads, axis=0)[:, None] for segment in (queries.segment, keys.segment))
    flat = [array.reshape(batch * heads, 1, *array.shape[2:]) for array in arrays]

    def row(args):
        segments, arrays = args
        ours, theirs = segments or (None, None)
        return function(queries._replace(segment=ours), keys._replace(segment=theirs), *arrays)

    if rowwise:
        out = lax.map(row, (segments, flat))
    else:
        out = row(jax.tree.map(lambda array: array[:, 0], (segments, flat)))
    return jax.tree.map(lambda array: array.reshape(batch, heads, *array.shape[2 if rowwise else 1 :]), out)


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Scaled scores, transposed: (..., keys, queries) float32."""
    products = jnp.einsum("...kd,...qd->...kq", key, query, preferred_element_type=jnp.float32)
    return products * query.shape[-1] ** -0.5


def _hide(scores: jax.Array, queries: Queries, keys: Keys) -> jax.Array:
    mask = visible(queries, keys)
    return jnp.where(mask.reshape(mask.shape[0], *[1] * (scores.ndim - 3), *mask.shape[1:]), scores, -jnp.inf)


def _whole_forward(query, key, value, queries: Queries, keys: Keys) -> tuple[jax.Array, jax.Array]:
    scores = _hide(_scores(query, key), queries, keys)  # (batch, heads, keys, queries)
    largest = jnp.maximum(scores.max(axis=-2, keepdims=True), LOWEST)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-2)
    sums = jnp.einsum("...kq,...kd->...qd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return sums / jnp.where(total > 0, total, 1)[..., None], largest[..., 0, :] + jnp.log(total)


def _pair_backward(scores, query, key, value, cotangent, lse, delta):
    """Gradients of one pair of blocks or chunks, dquery and dkey still to be scaled as the scores are."""
    weights = jnp.exp(scores - lse[..., None, :])  # (..., keys, queries)
    dweights = jnp.einsum("...kd,...qd->...kq", value, cotangent, preferred_element_type=jnp.float32)
    dscores = (weights * (dweights - delta[..., None, :])).astype(query.dtype)
    weights = weights.astype(cotangent.dtype)
    dquery = jnp.einsum("...kq,...kd->...qd", dscores, key, preferred_element_type=jnp.float32)
    dkey = jnp.einsum("...kq,...qd->...kd", dscores, query, preferred_element_type=jnp.float32)
    dvalue = jnp.einsum("...kq,...qd->...kd", weights, cotangent, preferred_element_type=jnp.float32)
    return dquery, dkey, dvalue


def _whole_backward(query, key, value, queries, keys, cotangent, lse, delta):
    scores = _hide(_scores(query, key), queries, keys)
    dquery, dkey, dvalue = _pair_backward(scores, query, key, value, cotangent, lse, delta)
    scale = query.shape[-1] ** -0.5
    return dquery * scale, dkey * scale, dvalue


def _visits(partly: jax.Array, wholly: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each row of a table of chunk pairs: the other chunks, those wholly visible first, then those partly; and how many of each."""
    order = jnp.argsort(jnp.where(wholly, 0, jnp.where(partly, 1, 2)), axis=1, stable=True).astype(jnp.int32)
    return order, wholly.sum(axis=1, dtype=jnp.int32), partly.sum(axis=1, dtype=jnp.int32)


def _take(array: jax.Array, index: jax.Array, size: int, axis: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(array, index * size, size, axis)


def _take_queries(queries: Queries, index: jax.Array, size: int) -> Queries:
    segment = None if queries.segment is None else _take(queries.segment, index, size, 1)
    return Queries(_take(queries.low, index, size, 0), _take(queries.high, index, size, 0), segment)


def _take_keys(keys: Keys, index: jax.Array, size: int) -> Keys:
    return Keys(_take(keys.position, index, size, 0), None if keys.segment is None else _take(keys.segment, index, size, 1))


def _visit(pair, order: jax.Array, wholly: jax.Array, partly: jax.Array, carry):
    """Runs `carry = pair(index, carry, masked)` over the chunks of one row of visits, without a mask where none is needed."""
    carry = lax.fori_loop(0, wholly, lambda n, carry: pair(order[n], carry, masked=False), carry)
    return lax.fori_loop(wholly, wholly + partly, lambda n, carry: pair(order[n], carry, masked=True), carry)


def _chunked_forward(size: int, queries: Queries, keys: Keys, query, key, value) -> tuple[jax.Array, jax.Array]:
    """Forward over chunks of `size`; query, key, value (rows, tokens, head_dim)."""
    rows, tokens, head_dim = query.shape
    visits = _visits(*chunk_pairs(queries, keys, tokens // size, key.shape[1] // size))

    def query_chunk(args):
        index, *visit = args
        ours, mine = _take(query, index, size, 1), _take_queries(queries, index, size)

        def pair(at, carry, masked):
            largest, total, sums = carry  # (rows, size), (rows, size), (rows, head_dim, size)
            scores = _scores(ours, _take(key, at, size, 1))
            if masked:
                scores = _hide(scores, mine, _take_keys(keys, at, size))
            now = jnp.maximum(largest, scores.max(axis=1))
            weights = jnp.exp(scores - now[:, None])
            decay = jnp.exp(largest - now)
            theirs = _take(value, at, size, 1)
            more = jnp.einsum("rkd,rkq->rdq", theirs, weights.astype(theirs.dtype), preferred_element_type=jnp.float32)
            return now, total * decay + weights.sum(axis=1), sums * decay[:, None] + more

        zero = jnp.zeros((rows, size), jnp.float32)
        start = (jnp.full_like(zero, LOWEST), zero, jnp.zeros((rows, head_dim, size), jnp.float32))
        largest, total, sums = _visit(pair, *visit, start)
        return (sums / jnp.where(total > 0, total, 1)[:, None]).mT, largest + jnp.log(total)

    output, lse = lax.map(query_chunk, (jnp.arange(tokens // size), *visits))
    return jnp.moveaxis(output, 0, 1).reshape(query.shape), jnp.moveaxis(lse, 0, 1).reshape(rows, tokens)


def _chunked_backward(size: int, queries: Queries, keys: Keys, query, key, value, cotangent, lse, delta):
    """Backward over chunks of `size`: key chunks outside, whose gradients are summed; those of the queries are updated in place."""
    rows, tokens, head_dim = query.shape
    visits = _visits(*(table.T for table in chunk_pairs(queries, keys, tokens // size, key.shape[1] // size)))

    def key_chunk(dquery, args):
        index, *visit = args
        mine, our_key, our_value = _take_keys(keys, index, size), _take(key, index, size, 1), _take(value, index, size, 1)

        def pair(at, carry, masked):
            dquery, dkey, dvalue = carry
            theirs = _take(query, at, size, 1)
            scores = _scores(theirs, our_key)
            if masked:
                scores = _hide(scores, _take_queries(queries, at, size), mine)
            rest = [_take(array, at, size, 1) for array in (cotangent, lse, delta)]
            more, more_key, more_value = _pair_backward(scores, theirs, our_key, our_value, *rest)
            more = more + _take(dquery, at, size, 1)
            return lax.dynamic_update_slice_in_dim(dquery, more, at * size, 1), dkey + more_key, dvalue + more_value

        zero = jnp.zeros((rows, size, head_dim), jnp.float32)
        dquery, *sums = _visit(pair, *visit, (dquery, zero, zero))
        return dquery, tuple(sums)

    start = jnp.zeros(query.shape, jnp.float32)
    dquery, (dkey, dvalue) = lax.scan(key_chunk, start, (jnp.arange(key.shape[1] // size), *visits))
    scale = head_dim**-0.5
    dkey, dvalue = (jnp.moveaxis(array, 0, 1).reshape(key.shape) for array in (dkey, dvalue))
    return dquery * scale, dkey * scale, dvalue
