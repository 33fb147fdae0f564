"""The block kernel in plain JAX, for any platform; measured and tuned on CPUs.

A small block is one batched product. A large one is cut into chunks that stay in a core's cache: pairs of chunks that see
nothing of each other are never visited, pairs that see each other wholly are computed without a mask. Products are written
so that no operand has to be transposed, which costs XLA's CPU backend up to three quarters of its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.kernel import LOWEST, BlockKernel
from agentic_transformer.ring.visibility import Keys, Queries, key_extents, pairs, query_extents, visible

MODERATE = 40.0
"""A log-sum-exp within +-MODERATE may divide exponentials of scores that were not shifted: exp(40) is far from overflow."""


class Chunks(NamedTuple):
    """Tokens in a chunk. A block of up to `whole` keys is not cut.

    An array of 256 KiB or more is what XLA's CPU backend spreads over threads, which costs a small product a fifth of its speed:
    a chunk's scores, queries times keys in float32, stay below that.
    """

    queries: int = 128
    keys: int = 256
    whole: int = 256


DEFAULT_CHUNKS = Chunks()


def plain_kernel(platform: str, chunks: Chunks = DEFAULT_CHUNKS) -> BlockKernel:
    """The block kernel in plain JAX.

    Args:
        platform: that of the devices. On "cpu" one (batch, head) row is taken at a time; elsewhere all rows in one batched
            product.
        chunks: chunk sizes, the same on every device.
    """
    rowwise = platform == "cpu"
    return BlockKernel(
        partial(_forward, chunks, rowwise),
        partial(_backward, chunks, rowwise),
        partial(_padded, chunks),
        partial(_one_row, rowwise),
    )


def _padded(chunks: Chunks, half: int) -> int:
    """Half a block padded so that it divides into equal chunks: multiples of 16 tokens, as near the wanted size as may be."""
    if 2 * half <= chunks.whole:
        return half
    larger = max(chunks.queries, chunks.keys)
    parts, step = -(-half // larger), 16 * larger // min(chunks.queries, chunks.keys)
    return parts * step * -(-half // (step * parts))


def _one_row(rowwise: bool, tokens: int) -> bool:
    """Rows of fewer tokens travel together: the devices would wait for each other too often."""
    return rowwise and tokens >= 2048


def _chunks(chunks: Chunks, queries: int, keys: int) -> Chunks:
    """The largest sizes, no larger than wanted, that divide half of the queries and half of the keys."""

    def divisor(wanted: int, half: int) -> int:
        return max(size for size in range(1, wanted + 1) if half % size == 0)

    return chunks._replace(queries=divisor(chunks.queries, queries // 2), keys=divisor(chunks.keys, keys // 2))


def _forward(
    chunks: Chunks,
    rowwise: bool,
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
) -> tuple[Array, Array]:
    if key.shape[2] <= chunks.whole:
        return _whole_forward(query, key, value, queries, keys)
    forward = partial(_chunked_forward, _chunks(chunks, query.shape[2], key.shape[2]))
    rows = _each_row if rowwise else _all_rows
    return rows(forward, queries, keys, (query, key, value))


def _backward(
    chunks: Chunks,
    rowwise: bool,
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    cotangent: Array,
    lse: Array,
    delta: Array,
) -> tuple[Array, Array, Array]:
    if key.shape[2] <= chunks.whole:
        return _whole_backward(query, key, value, queries, keys, cotangent, lse, delta)
    backward = partial(_chunked_backward, _chunks(chunks, query.shape[2], key.shape[2]))
    rows = _each_row if rowwise else _all_rows
    return rows(backward, queries, keys, (query, key, value, cotangent, lse, delta))


def _all_rows(function: Callable, queries: Queries, keys: Keys, arrays: tuple[Array, ...]) -> Any:
    """Applies `function(queries, keys, *arrays)`, which takes arrays (rows, ...), to arrays (batch, heads, ...)."""
    batch, heads = arrays[0].shape[:2]
    if queries.segment is not None:
        queries, keys = (x._replace(segment=jnp.repeat(x.segment, heads, axis=0)) for x in (queries, keys))
    out = function(queries, keys, *(array.reshape(batch * heads, *array.shape[2:]) for array in arrays))
    return jax.tree.map(lambda array: array.reshape(batch, heads, *array.shape[1:]), out)


def _each_row(function: Callable, queries: Queries, keys: Keys, arrays: tuple[Array, ...]) -> Any:
    """As `_all_rows`, with one row at a time."""

    def one(segments: tuple[Array | None, Array | None], *arrays: Array) -> Any:
        ours, theirs = segments
        return function(queries._replace(segment=ours), keys._replace(segment=theirs), *arrays)

    def split(queries: Queries, keys: Keys, *arrays: Array) -> Any:
        each = jax.tree.map(lambda array: array[:, None], ((queries.segment, keys.segment), *arrays))
        return jax.tree.map(lambda array: array[:, 0], lax.map(lambda row: one(*row), each))

    return _all_rows(split, queries, keys, arrays)


def _scores(a: Array, b: Array, *, masked: bool) -> Array:
    """Scaled scores (..., a's tokens, b's tokens) in float32."""
    return _contract(a, b, "...ad,...bd->...ab", -1, quarters=masked) * a.shape[-1] ** -0.5


def _product(a: Array, b: Array, *, masked: bool = False) -> Array:
    """Matrix product in float32, of b's type until then."""
    return _contract(a.astype(b.dtype), b, "...ab,...bd->...ad", -2, quarters=masked)


def _contract(a: Array, b: Array, formula: str, axis: int, *, quarters: bool) -> Array:
    """Product in float32, by an einsum that sums over the last axis of a and `axis` of b.

    Errors are largest for queries that see few keys, and come from rounding in the scores and in sums of large weights. These
    queries are all in masked chunks, few in number: there, in float32, quarters of the sum are added pairwise, which leaves
    the error that exact scores would.
    """
    product = partial(jnp.einsum, formula, preferred_element_type=jnp.float32)
    if not quarters or a.dtype != jnp.float32 or a.shape[-1] % 4:
        return product(a, b)
    parts = zip(jnp.split(a, 4, axis=-1), jnp.split(b, 4, axis=axis), strict=True)
    first, second, third, fourth = (product(*pair) for pair in parts)
    return (first + second) + (third + fourth)


def _hide(scores: Array, queries: Queries, keys: Keys, *, keys_first: bool = False) -> Array:
    mask = visible(queries, keys, keys_first=keys_first)
    return jnp.where(mask.reshape(mask.shape[0], *[1] * (scores.ndim - 3), *mask.shape[1:]), scores, -jnp.inf)


def _whole_forward(query: Array, key: Array, value: Array, queries: Queries, keys: Keys) -> tuple[Array, Array]:
    scores = _hide(_scores(query, key, masked=True), queries, keys)  # (batch, heads, queries, keys)
    largest = jnp.maximum(scores.max(axis=-1, keepdims=True), LOWEST)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1)
    return _product(weights, value) / jnp.where(total > 0, total, 1)[..., None], largest[..., 0] + jnp.log(total)


def _whole_backward(
    query: Array, key: Array, value: Array, queries: Queries, keys: Keys, cotangent: Array, lse: Array, delta: Array
) -> tuple[Array, Array, Array]:
    scores = _hide(_scores(key, query, masked=True), queries, keys, keys_first=True)
    weights, dscores = _score_gradient(scores, value, cotangent, lse, delta, masked=True)
    scale = query.shape[-1] ** -0.5
    dkey, dvalue = (_product(a, b, masked=True) for a, b in ((dscores, query), (weights, cotangent)))
    return _product(dscores.mT, key) * scale, dkey * scale, dvalue


def _score_gradient(
    scores: Array, value: Array, cotangent: Array, lse: Array, delta: Array, *, masked: bool
) -> tuple[Array, Array]:
    """The weights of attention and the gradient of its scores, (..., keys, queries).

    A moderate log-sum-exp divides the exponential of the score, instead of being subtracted from the score: the weights then
    carry the very rounding errors of the forward pass, and what should cancel in the gradient of a query with few keys does.
    """
    moderate = jnp.abs(lse) <= MODERATE
    offset, factor = jnp.where(moderate, 0, lse), jnp.where(moderate, jnp.exp(-lse), 1)
    weights = jnp.exp(scores - offset[..., None, :]) * factor[..., None, :]
    dweights = _contract(value, cotangent, "...kd,...qd->...kq", -1, quarters=masked)
    return weights, weights * (dweights - delta[..., None, :])


def _take(tree: Any, index: Array, size: int, axis: int) -> Any:
    """Chunk `index` of `size` tokens of every array of a tree."""
    return jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, index * size, size, axis), tree)


def _visit(pair: Callable, partly: Array, wholly: Array, carry: Any) -> Any:
    """Runs `carry = pair(chunk, carry, masked)` over the chunks flagged, without a mask over those that are wholly visible."""
    order = jnp.argsort(jnp.where(wholly, 0, jnp.where(partly, 1, 2)), stable=True).astype(jnp.int32)
    first, last = wholly.sum(dtype=jnp.int32), (wholly | partly).sum(dtype=jnp.int32)
    carry = lax.fori_loop(0, first, lambda n, carry: pair(order[n], carry, masked=False), carry)
    return lax.fori_loop(first, last, lambda n, carry: pair(order[n], carry, masked=True), carry)


def _row_max(scores: Array) -> Array:
    """Greatest of each row. Halves are compared as whole vectors first: a reduction along a row is slow on CPUs."""
    while scores.shape[-1] > 16 and scores.shape[-1] % 2 == 0:
        scores = jnp.maximum(*jnp.split(scores, 2, axis=-1))
    return scores.max(axis=-1)


def _chunked_forward(chunks: Chunks, queries: Queries, keys: Keys, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    """Forward over chunks; query, key, value (rows, tokens, head_dim).

    A column of ones beside the values makes the product with them the sum of the weights too. The running maximum is of the keys
    that a query sees. It is kept even where no score could overflow: to leave it out by a test of all scores would let tokens
    round the outputs of earlier ones.
    """
    rows, tokens, head_dim = query.shape
    of_queries, of_keys = query_extents(queries, tokens // chunks.queries), key_extents(keys, key.shape[1] // chunks.keys)
    ones = jnp.ones((rows, chunks.keys, 1), value.dtype)

    def query_chunk(args: tuple) -> tuple[Array, Array]:
        index, seen_by = args
        ours, mine = _take(query, index, chunks.queries, 1), _take(queries, index, chunks.queries, -1)

        def pair(at: Array, carry: tuple[Array, Array], masked: bool) -> tuple[Array, Array]:
            largest, sums = carry  # (rows, queries), (rows, queries, head_dim + 1)
            scores = _scores(ours, _take(key, at, chunks.keys, 1), masked=masked)
            if masked:
                scores = _hide(scores, mine, _take(keys, at, chunks.keys, -1))
            now = jnp.maximum(largest, _row_max(scores))
            values = jnp.concatenate([_take(value, at, chunks.keys, 1), ones], axis=2)
            sums = sums * jnp.exp(largest - now)[..., None] + _product(jnp.exp(scores - now[..., None]), values)
            return now, sums

        start = (jnp.full((rows, chunks.queries), LOWEST), jnp.zeros((rows, chunks.queries, head_dim + 1)))
        largest, sums = _visit(pair, *pairs(seen_by, of_keys), start)
        sums, total = sums[..., :-1], sums[..., -1]
        return sums / jnp.where(total > 0, total, 1)[..., None], largest + jnp.log(total)

    output, lse = lax.map(query_chunk, (jnp.arange(tokens // chunks.queries), of_queries))
    return jnp.moveaxis(output, 0, 1).reshape(query.shape), jnp.moveaxis(lse, 0, 1).reshape(rows, tokens)


def _chunked_backward(
    chunks: Chunks,
    queries: Queries,
    keys: Keys,
    query: Array,
    key: Array,
    value: Array,
    cotangent: Array,
    lse: Array,
    delta: Array,
) -> tuple[Array, Array, Array]:
    """Backward over chunks; arrays (rows, tokens, ...).

    Key chunks are the outer loop, whose gradients are summed; those of the queries, held as (rows, head_dim, tokens), are
    updated in place.
    """
    rows, tokens, head_dim = query.shape
    of_queries, of_keys = query_extents(queries, tokens // chunks.queries), key_extents(keys, key.shape[1] // chunks.keys)

    def key_chunk(dquery: Array, args: tuple) -> tuple[Array, tuple[Array, Array]]:
        index, seen = args
        mine = _take(keys, index, chunks.keys, -1)
        our_key, our_value = _take((key, value), index, chunks.keys, 1)
        transposed = our_key.mT

        def pair(at: Array, carry: tuple[Array, Array, Array], masked: bool) -> tuple[Array, Array, Array]:
            dquery, dkey, dvalue = carry
            theirs, their_cotangent, their_lse, their_delta = _take((query, cotangent, lse, delta), at, chunks.queries, 1)
            scores = _scores(our_key, theirs, masked=masked)
            if masked:
                scores = _hide(scores, _take(queries, at, chunks.queries, -1), mine, keys_first=True)
            weights, dscores = _score_gradient(scores, our_value, their_cotangent, their_lse, their_delta, masked=masked)
            more = _take(dquery, at, chunks.queries, 2) + jnp.matmul(
                transposed, dscores.astype(key.dtype), preferred_element_type=jnp.float32
            )
            dquery = lax.dynamic_update_slice_in_dim(dquery, more, at * chunks.queries, 2)
            dkey += _product(dscores, theirs, masked=masked)
            return dquery, dkey, dvalue + _product(weights, their_cotangent, masked=masked)

        zero = jnp.zeros((rows, chunks.keys, head_dim))
        dquery, *sums = _visit(pair, *pairs(of_queries, seen), (dquery, zero, zero))
        return dquery, tuple(sums)

    start = jnp.zeros((rows, head_dim, tokens))
    dquery, (dkey, dvalue) = lax.scan(key_chunk, start, (jnp.arange(key.shape[1] // chunks.keys), of_keys))
    scale = head_dim**-0.5
    dkey, dvalue = (jnp.moveaxis(array, 0, 1).reshape(key.shape) for array in (dkey, dvalue))
    return dquery.mT * scale, dkey * scale, dvalue
