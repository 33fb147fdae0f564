"""Attention of a large block in chunks, which on CPUs stay in a core's cache.

Pairs of chunks that see each other wholly are computed without a mask, then those that do so in part with one; pairs that see
nothing of each other are never visited. Sums are updated in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.kernel import Running
from agentic_transformer.ring.pair import attend, differentiate
from agentic_transformer.ring.visibility import Keys, Queries, pairs


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

    def fitted(self, rows: int, queries: int, keys: int) -> Chunks:
        """The largest sizes, no larger than wanted, that divide half of the queries, half of the keys, and the rows."""

        def divisor(wanted: int, whole: int) -> int:
            return max(size for size in range(1, wanted + 1) if whole % size == 0)

        return self._replace(
            queries=divisor(self.queries, queries // 2), keys=divisor(self.keys, keys // 2), rows=divisor(self.rows, rows)
        )


class Cut(NamedTuple):
    """How rows (rows, tokens, ...) are cut: a group of `together` rows, and of these a chunk of `size` tokens."""

    together: int
    size: int

    def take(self, array: Array, group: Array, index: Array) -> Array:
        """A chunk, (together, size, ...)."""
        return lax.dynamic_slice(array, self._start(array, group, index), (self.together, self.size, *array.shape[2:]))

    def put(self, array: Array, chunk: Array, group: Array, index: Array) -> Array:
        """The array with a chunk in place."""
        return lax.dynamic_update_slice(array, chunk, self._start(array, group, index))

    def marks(self, marks: Queries | Keys, group: Array, index: Array) -> Queries | Keys:
        """As `take`, of what tells which queries see which keys."""
        *positions, segment = marks
        positions = (lax.dynamic_slice_in_dim(position, index * self.size, self.size) for position in positions)
        return type(marks)(*positions, None if segment is None else self.take(segment, group, index))

    def _start(self, array: Array, group: Array, index: Array) -> tuple:
        return group * self.together, index * self.size, *[0] * (array.ndim - 2)


class Sweep(NamedTuple):
    """Pairs of chunks that are computed alike, one after another."""

    seen: Array  # (groups, chunks of queries, chunks of keys) bool
    masked: bool


def _sweeps(chunks: Chunks, queries: Queries, keys: Keys, rows: int) -> tuple[Sweep, Sweep]:
    """First the pairs that are wholly visible, then those that are so in part."""
    flags = pairs(queries, keys, queries.low.size // chunks.queries, keys.position.size // chunks.keys)
    flags = (jnp.broadcast_to(flag, (rows, *flag.shape[1:])) for flag in flags)
    seen, wholly = (flag.reshape(-1, chunks.rows, *flag.shape[1:]) for flag in flags)
    wholly = wholly.all(axis=1)
    return Sweep(wholly, masked=False), Sweep(seen.any(axis=1) & ~wholly, masked=True)


def _visit(seen: Array, chunk: Callable, carry: Any) -> Any:
    """Runs `carry = chunk(group, index, visit, carry)` over the chunks that see any of the other kind.

    Args:
        seen: (groups, chunks, chunks of the other kind).
        chunk: is given `visit(pair, carry)`, which runs `carry = pair(other, carry)` over those that it sees.
        carry: the start.
    """
    groups, chunks, others = seen.shape
    seen = seen.reshape(-1, others)
    counts = seen.sum(axis=-1, dtype=jnp.int32)
    order, busy = (jnp.argsort(hidden, axis=-1, stable=True).astype(jnp.int32) for hidden in (~seen, counts == 0))

    def one(n: Array, carry: Any) -> Any:
        at = busy[n]

        def visit(pair: Callable, carry: Any) -> Any:
            return lax.fori_loop(0, counts[at], lambda m, carry: pair(order[at, m], carry), carry)

        return chunk(at // chunks, at % chunks, visit, carry)

    return lax.fori_loop(0, (counts > 0).sum(dtype=jnp.int32), one, carry)


def chunked_forward(
    chunks: Chunks, query: Array, key: Array, value: Array, queries: Queries, keys: Keys, running: Running
) -> Running:
    """`BlockKernel.forward` over chunks; arrays and segments of rows, (rows, tokens, ...)."""
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    of_queries, of_keys = Cut(chunks.rows, chunks.queries), Cut(chunks.rows, chunks.keys)

    def run(sweep: Sweep, running: Running) -> Running:
        def chunk(group: Array, index: Array, visit: Callable, running: Running) -> Running:
            ours, mine = of_queries.take(query, group, index), of_queries.marks(queries, group, index)

            def pair(at: Array, so_far: Running) -> Running:
                theirs = (of_keys.take(array, group, at) for array in (key, value))
                return attend(
                    ours, *theirs, mine, of_keys.marks(keys, group, at), so_far, masked=sweep.masked, halving=chunks.halving
                )

            after = visit(pair, Running(*(of_queries.take(array, group, index) for array in running)))
            return Running(*(of_queries.put(array, part, group, index) for array, part in zip(running, after, strict=True)))

        return _visit(sweep.seen, chunk, running)

    wholly, partly = _sweeps(chunks, queries, keys, query.shape[0])
    return run(partly, run(wholly, running))


def chunked_backward(
    chunks: Chunks,
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    cotangent: Array,
    lse: Array,
    delta: Array,
    dquery: Array,
) -> tuple[Array, Array, Array]:
    """`BlockKernel.backward` over chunks; arrays and segments of rows, (rows, tokens, ...), dquery (rows, head_dim, tokens).

    Key chunks are the outer loop.
    """
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    of_queries, of_keys = Cut(chunks.rows, chunks.queries), Cut(chunks.rows, chunks.keys)

    def run(sweep: Sweep, gradients: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        def chunk(group: Array, index: Array, visit: Callable, gradients: tuple) -> tuple:
            dquery, *sums = gradients
            our_key, our_value = (of_keys.take(array, group, index) for array in (key, value))
            mine, transposed = of_keys.marks(keys, group, index), our_key.mT

            def pair(at: Array, so_far: tuple) -> tuple:
                dquery, *sums = so_far
                theirs, *rest = (of_queries.take(array, group, at) for array in (query, cotangent, lse, delta))
                marks = of_queries.marks(queries, group, at)
                more, *parts = differentiate(
                    theirs, our_key, our_value, marks, mine, *rest, transposed=transposed, masked=sweep.masked
                )
                place = (group * of_queries.together, 0, at * of_queries.size)
                more += lax.dynamic_slice(dquery, place, more.shape)
                return lax.dynamic_update_slice(dquery, more, place), *(a + b for a, b in zip(sums, parts, strict=True))

            dquery, *parts = visit(pair, (dquery, *(of_keys.take(array, group, index) for array in sums)))
            return dquery, *(of_keys.put(array, part, group, index) for array, part in zip(sums, parts, strict=True))

        return _visit(sweep.seen.mT, chunk, gradients)

    wholly, partly = _sweeps(chunks, queries, keys, query.shape[0])
    zero = jnp.zeros(key.shape, jnp.float32)
    return run(partly, run(wholly, (dquery, zero, zero)))
