"""The block kernel in plain JAX, for any platform; measured and tuned on CPUs.

A small block is one batched product. A large one is cut into chunks that stay in a core's cache: pairs of chunks that see
nothing of each other are never visited, pairs that see each other wholly are computed without a mask. Products are written
so that no operand has to be transposed, which costs XLA's CPU backend up to three quarters of its speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.kernel import LOWEST, BlockKernel
from agentic_transformer.ring.visibility import Keys, Queries, pairs, visible

MODERATE = 40.0
"""A log-sum-exp within +-MODERATE may divide exponentials of scores that were not shifted: exp(40) is far from overflow."""


class Chunks(NamedTuple):
    """What is computed at once, which bounds memory whatever the batch and the number of heads.

    Attributes:
        queries: tokens in a chunk of queries.
        keys: tokens in a chunk of keys.
        whole: keys of a block that is not cut.
        rows: (batch, head) rows at once.
        halving: whether rows of scores are reduced by halves, as whole vectors: a reduction along a row is slow on CPUs.
    """

    queries: int
    keys: int
    whole: int
    rows: int = 1
    halving: bool = True


CPU_CHUNKS = Chunks(256, 256, whole=256)
"""Scores of 256 KiB, which stay in a core's cache beside their operands: larger and smaller ones took up to a fifth longer."""

ACCELERATOR_CHUNKS = Chunks(512, 512, whole=512, rows=64, halving=False)
"""Scores of at most 64 MiB, of which a dozen may be held. No speed was measured: matrix units want large products."""


def plain_kernel(platform: str, chunks: Chunks | None = None) -> BlockKernel:
    """The block kernel in plain JAX.

    Args:
        platform: that of the devices.
        chunks: the same on every device; None: `CPU_CHUNKS` on "cpu", `ACCELERATOR_CHUNKS` elsewhere.
    """
    chunks = chunks or (CPU_CHUNKS if platform == "cpu" else ACCELERATOR_CHUNKS)
    return BlockKernel(*(partial(function, chunks) for function in (_forward, _backward, _padded, _one_row)))


def _padded(chunks: Chunks, half: int) -> int:
    """Half a block padded so that it divides into equal chunks: multiples of 16 tokens, as near the wanted size as may be."""
    if 2 * half <= chunks.whole:
        return half
    larger = max(chunks.queries, chunks.keys)
    parts, step = -(-half // larger), 16 * larger // min(chunks.queries, chunks.keys)
    return parts * step * -(-half // (step * parts))


def _one_row(chunks: Chunks, tokens: int) -> bool:
    """Rows of fewer tokens travel together: the devices would wait for each other too often."""
    return chunks.rows == 1 and tokens >= 2048


def _fitted(chunks: Chunks, rows: int, queries: int, keys: int) -> Chunks:
    """The largest sizes, no larger than wanted, that divide half of the queries, half of the keys, and the rows."""

    def divisor(wanted: int, whole: int) -> int:
        return max(size for size in range(1, wanted + 1) if whole % size == 0)

    return chunks._replace(
        queries=divisor(chunks.queries, queries // 2), keys=divisor(chunks.keys, keys // 2), rows=divisor(chunks.rows, rows)
    )


def _forward(chunks: Chunks, query: Array, key: Array, value: Array, queries: Queries, keys: Keys) -> tuple[Array, Array]:
    if key.shape[2] <= chunks.whole:
        return _whole_forward(query, key, value, queries, keys)
    output, lse = _chunked_forward(chunks, *_rows(queries, keys, query, key, value))
    return output.reshape(query.shape), lse.reshape(query.shape[:-1])


def _backward(
    chunks: Chunks,
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
    gradients = _chunked_backward(chunks, *_rows(queries, keys, query, key, value, cotangent, lse, delta))
    return tuple(
        gradient.reshape(shape) for gradient, shape in zip(gradients, (query.mT.shape, key.shape, value.shape), strict=True)
    )


def _rows(queries: Queries, keys: Keys, *arrays: Array) -> tuple:
    """Arrays (batch, heads, ...) and segments (batch, tokens) as rows, (batch * heads, ...)."""
    heads = arrays[0].shape[1]
    if queries.segment is not None:
        queries, keys = (x._replace(segment=jnp.repeat(x.segment, heads, axis=0)) for x in (queries, keys))
    return queries, keys, *(array.reshape(-1, *array.shape[2:]) for array in arrays)


def _scores(a: Array, b: Array, *, masked: bool) -> Array:
    """Scores before they are scaled, (..., a's tokens, b's tokens) in float32."""
    return _contract(a, b, "...ad,...bd->...ab", -1, quarters=masked)


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
    # (batch, heads, queries, keys)
    scores = _hide(_scores(query, key, masked=True), queries, keys) * _scale(query)
    largest = jnp.maximum(scores.max(axis=-1, keepdims=True), LOWEST)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1)
    return _product(weights, value) / jnp.where(total > 0, total, 1)[..., None], largest[..., 0] + jnp.log(total)


def _whole_backward(
    query: Array, key: Array, value: Array, queries: Queries, keys: Keys, cotangent: Array, lse: Array, delta: Array
) -> tuple[Array, Array, Array]:
    scores = _hide(_scores(key, query, masked=True), queries, keys, keys_first=True) * _scale(query)
    weights, dscores = _score_gradient(scores, value, cotangent, lse, delta, masked=True)
    dkey, dvalue = (_product(a, b, masked=True) for a, b in ((dscores, query), (weights, cotangent)))
    return _product_of_keys(key.mT, dscores) * _scale(query), dkey * _scale(query), dvalue


def _scale(query: Array) -> float:
    return query.shape[-1] ** -0.5


def _product_of_keys(transposed: Array, dscores: Array) -> Array:
    """Gradient of the queries, (..., head_dim, queries), of keys (..., head_dim, keys) and dscores (..., keys, queries)."""
    return jnp.matmul(transposed, dscores.astype(transposed.dtype), preferred_element_type=jnp.float32)


def _score_gradient(
    scores: Array, value: Array, cotangent: Array, lse: Array, delta: Array, *, masked: bool
) -> tuple[Array, Array]:
    """The weights of attention and the gradient of its scores, (..., keys, queries).

    Where a query may see few keys, in masked chunks, a moderate log-sum-exp divides the exponential of the score, instead of
    being subtracted from the score: the weights then carry the very rounding errors of the forward pass, and what should
    cancel in the gradient does.
    """
    if masked:
        moderate = jnp.abs(lse) <= MODERATE
        offset, factor = jnp.where(moderate, 0, lse), jnp.where(moderate, jnp.exp(-lse), 1)
        weights = jnp.exp(scores - offset[..., None, :]) * factor[..., None, :]
    else:
        weights = jnp.exp(scores - lse[..., None, :])
    dweights = _contract(value, cotangent, "...kd,...qd->...kq", -1, quarters=masked)
    return weights, weights * (dweights - delta[..., None, :])


class Visits(NamedTuple):
    """Which chunks of the other kind a chunk sees, by number: first those wholly visible, then those partly so."""

    order: Array  # (..., chunks of the other kind) int32
    wholly: Array  # (...) int32, how many are wholly visible
    seen: Array  # (...) int32, how many are visible at all


def _visit(pair: Callable, visits: Visits, carry: Any) -> Any:
    """Runs `carry = pair(chunk, carry, masked)` over the chunks seen, without a mask over those that are wholly visible."""
    order, wholly, seen = visits
    carry = lax.fori_loop(0, wholly, lambda n, carry: pair(order[n], carry, masked=False), carry)
    return lax.fori_loop(wholly, seen, lambda n, carry: pair(order[n], carry, masked=True), carry)


class Cut(NamedTuple):
    """How rows (rows, tokens, ...) are cut: `together` of them form a group, and groups are taken one after another."""

    groups: int
    together: int

    def take(self, array: Array, group: Array, index: Array, size: int) -> Array:
        """Chunk `index` of `size` tokens of a group, (together, size, ...)."""
        start = (group * self.together, index * size, *[0] * (array.ndim - 2))
        return lax.dynamic_slice(array, start, (self.together, size, *array.shape[2:]))

    def marks(self, marks: Queries | Keys, group: Array, index: Array, size: int) -> Queries | Keys:
        """As `take`, of what tells which queries see which keys."""
        *positions, segment = marks
        positions = (lax.dynamic_slice_in_dim(position, index * size, size) for position in positions)
        return type(marks)(*positions, None if segment is None else self.take(segment, group, index, size))

    def places(self, chunks: int) -> tuple[Array, Array]:
        """Group and number of every chunk of every group, (groups * chunks,)."""
        return jnp.repeat(jnp.arange(self.groups), chunks), jnp.tile(jnp.arange(chunks), self.groups)

    def visits(self, seen: Array, wholly: Array) -> Visits:
        """Visits of the chunks of `places`, from flags (1 or rows, chunks, chunks of the other kind)."""

        def grouped(flags: Array) -> Array:
            flags = jnp.broadcast_to(flags, (self.groups * self.together, *flags.shape[1:]))
            return flags.reshape(self.groups, self.together, *flags.shape[1:])

        seen, wholly = (x.reshape(-1, x.shape[-1]) for x in (grouped(seen).any(axis=1), grouped(wholly).all(axis=1)))
        order = jnp.argsort(jnp.where(wholly, 0, jnp.where(seen, 1, 2)), axis=-1, stable=True).astype(jnp.int32)
        return Visits(order, wholly.sum(axis=-1, dtype=jnp.int32), seen.sum(axis=-1, dtype=jnp.int32))

    def join(self, array: Array) -> Array:
        """What was computed for `places`, (groups * chunks, together, size, ...), as (groups, together, chunks, size, ...)."""
        return jnp.moveaxis(array.reshape(self.groups, -1, *array.shape[1:]), 1, 2)


def _reduce(ufunc: jnp.ufunc, x: Array, halving: bool) -> Array:
    """Reduces each row."""
    while halving and x.shape[-1] % 2 == 0:
        x = ufunc(*jnp.split(x, 2, axis=-1))
    return ufunc.reduce(x, axis=-1)


def _chunked_forward(chunks: Chunks, queries: Queries, keys: Keys, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
    """Forward over chunks; query, key, value (rows, tokens, head_dim), what is returned as `Cut.join` gives it.

    The running maximum is of the keys that a query sees. It is kept even where no score could overflow: to leave it out by a
    test of all scores would let tokens round the outputs of earlier ones.
    """
    rows, tokens, head_dim = query.shape
    chunks = _fitted(chunks, rows, tokens, key.shape[1])
    cut = Cut(rows // chunks.rows, chunks.rows)
    parts = tokens // chunks.queries
    scale = _scale(query)

    def query_chunk(args: tuple) -> tuple[Array, Array]:
        (group, index), visits = args
        ours, mine = cut.take(query, group, index, chunks.queries), cut.marks(queries, group, index, chunks.queries)

        def pair(at: Array, carry: tuple[Array, Array, Array], masked: bool) -> tuple[Array, Array, Array]:
            largest, total, sums = carry  # (rows, queries), (rows, queries), (rows, queries, head_dim)
            scores = _scores(ours, cut.take(key, group, at, chunks.keys), masked=masked)
            if masked:
                scores = _hide(scores, mine, cut.marks(keys, group, at, chunks.keys))
            now = jnp.maximum(largest, _reduce(jnp.maximum, scores, chunks.halving) * scale)
            weights, shrink = jnp.exp(scores * scale - now[..., None]), jnp.exp(largest - now)
            sums = sums * shrink[..., None] + _product(weights, cut.take(value, group, at, chunks.keys))
            return now, total * shrink + _reduce(jnp.add, weights, chunks.halving), sums

        each = (cut.together, chunks.queries)
        largest, total, sums = _visit(pair, visits, (jnp.full(each, LOWEST), jnp.zeros(each), jnp.zeros((*each, head_dim))))
        return sums / jnp.where(total > 0, total, 1)[..., None], largest + jnp.log(total)

    visits = cut.visits(*pairs(queries, keys, parts, key.shape[1] // chunks.keys))
    output, lse = lax.map(query_chunk, (cut.places(parts), visits))
    return cut.join(output), cut.join(lse)


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
    """Backward over chunks; arrays (rows, tokens, ...), what is returned of keys and values as `Cut.join` gives it.

    Key chunks are the outer loop, whose gradients are summed; those of the queries, held as (rows, head_dim, tokens), are
    updated in place.
    """
    rows, tokens, head_dim = query.shape
    chunks = _fitted(chunks, rows, tokens, key.shape[1])
    cut = Cut(rows // chunks.rows, chunks.rows)
    parts = key.shape[1] // chunks.keys
    scale = _scale(query)

    def key_chunk(dquery: Array, args: tuple) -> tuple[Array, tuple[Array, Array]]:
        (group, index), visits = args
        mine = cut.marks(keys, group, index, chunks.keys)
        our_key, our_value = (cut.take(array, group, index, chunks.keys) for array in (key, value))
        transposed = our_key.mT

        def pair(at: Array, carry: tuple[Array, Array, Array], masked: bool) -> tuple[Array, Array, Array]:
            dquery, dkey, dvalue = carry
            theirs, their_cotangent, their_lse, their_delta = (
                cut.take(array, group, at, chunks.queries) for array in (query, cotangent, lse, delta)
            )
            scores = _scores(our_key, theirs, masked=masked)
            if masked:
                scores = _hide(scores, cut.marks(queries, group, at, chunks.queries), mine, keys_first=True)
            weights, dscores = _score_gradient(scores * scale, our_value, their_cotangent, their_lse, their_delta, masked=masked)
            place = (group * cut.together, 0, at * chunks.queries)
            so_far = lax.dynamic_slice(dquery, place, (cut.together, head_dim, chunks.queries))
            dquery = lax.dynamic_update_slice(dquery, so_far + _product_of_keys(transposed, dscores), place)
            dkey += _product(dscores, theirs, masked=masked)
            return dquery, dkey, dvalue + _product(weights, their_cotangent, masked=masked)

        zero = jnp.zeros((cut.together, chunks.keys, head_dim))
        dquery, *sums = _visit(pair, visits, (dquery, zero, zero))
        return dquery, tuple(sums)

    flags = pairs(queries, keys, tokens // chunks.queries, parts)
    visits = cut.visits(*(flag.mT for flag in flags))
    dquery, sums = lax.scan(key_chunk, jnp.zeros((rows, head_dim, tokens)), (cut.places(parts), visits))
    dkey, dvalue = (cut.join(array) for array in sums)
    return dquery * scale, dkey * scale, dvalue
