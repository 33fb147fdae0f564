"""Attention of a large block in chunks, which on CPUs stay in a core's cache.

Of the chunks that a chunk sees, those that are wholly visible come first, without a mask, then those that are so in part, with
one; pairs that see nothing of each other are never visited. Which they are is told for one chunk at a time: a table of all pairs
would grow with the square of the block. Sums are updated in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.kernel import Running
from agentic_transformer.ring.pair import attend, differentiate
from agentic_transformer.ring.visibility import Extent, Keys, Queries, extent, pairs


class Chunks(NamedTuple):
    """What is computed at once, which bounds memory whatever the batch and the number of heads.

    Attributes:
        queries: tokens in a chunk of queries.
        keys: tokens in a chunk of keys.
        whole: keys of a block that is not cut.
        rows: (batch, head) rows at once.
        on_cpu: whether pairs are written as XLA's CPU backend is fast at.
    """

    queries: int
    keys: int
    whole: int
    rows: int = 1
    on_cpu: bool = True

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


def _visit(cuts: tuple[Cut, Cut], ours: Queries | Keys, theirs: Keys | Queries, rows: int, chunk: Callable, carry: Any) -> Any:
    """Runs `carry = chunk(group, index, visit, carry)` over the chunks of the one kind that see any of the other.

    Args:
        cuts: how the one kind and the other are cut.
        ours: the marks of the one kind.
        theirs: those of the other.
        rows: (batch, head) rows.
        chunk: is given `visit(pair, carry)`, which runs `carry = pair(index, carry, masked=)` over the chunks of the other kind
            that it sees.
        carry: the start.
    """
    together = cuts[0].together
    count, others = (marks[0].size // cut.size for marks, cut in zip((ours, theirs), cuts, strict=True))
    of_ours, of_theirs = extent(ours, count), extent(theirs, others)

    def of_group(whole: Extent, cut: Cut, group: Array, index: Array | int = 0) -> Extent:
        return Extent(*(cut.marks(marks, group, index) for marks in whole))

    def see(ours: Extent, theirs: Extent) -> tuple[Array, Array]:
        return pairs(ours, theirs) if isinstance(ours.least, Queries) else pairs(theirs, ours)

    some = see(of_ours, extent(theirs, 1))[0].reshape(-1, count)
    some = jnp.broadcast_to(some, (rows, count)).reshape(-1, together, count).any(axis=1).reshape(-1)
    busy = jnp.argsort(~some, stable=True).astype(jnp.int32)

    def one(n: Array, carry: Any) -> Any:
        group, index = busy[n] // count, busy[n] % count
        flags = see(of_group(of_ours, Cut(together, 1), group, index), of_group(of_theirs, Cut(together, others), group))
        seen, wholly = (flag.reshape(-1, others) for flag in flags)
        seen, wholly = seen.any(axis=0), wholly.all(axis=0)
        order = jnp.argsort(jnp.where(wholly, 0, jnp.where(seen, 1, 2)), stable=True).astype(jnp.int32)
        first, last = (flag.sum(dtype=jnp.int32) for flag in (wholly, seen))

        def visit(pair: Callable, carry: Any) -> Any:
            carry = lax.fori_loop(0, first, lambda m, carry: pair(order[m], carry, masked=False), carry)
            return lax.fori_loop(first, last, lambda m, carry: pair(order[m], carry, masked=True), carry)

        return chunk(group, index, visit, carry)

    return lax.fori_loop(0, some.sum(dtype=jnp.int32), one, carry)


def chunked_forward(
    chunks: Chunks, query: Array, key: Array, value: Array, queries: Queries, keys: Keys, running: Running
) -> Running:
    """`BlockKernel.forward` over chunks; arrays and segments of rows, (rows, tokens, ...)."""
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    of_queries, of_keys = Cut(chunks.rows, chunks.queries), Cut(chunks.rows, chunks.keys)

    def chunk(group: Array, index: Array, visit: Callable, running: Running) -> Running:
        ours, mine = of_queries.take(query, group, index), of_queries.marks(queries, group, index)

        def pair(at: Array, so_far: Running, masked: bool) -> Running:
            theirs = (of_keys.take(array, group, at) for array in (key, value))
            marks = of_keys.marks(keys, group, at)
            return attend(ours, *theirs, mine, marks, so_far, masked=masked, on_cpu=chunks.on_cpu)

        after = visit(pair, Running(*(of_queries.take(array, group, index) for array in running)))
        return Running(*(of_queries.put(array, part, group, index) for array, part in zip(running, after, strict=True)))

    return _visit((of_queries, of_keys), queries, keys, query.shape[0], chunk, running)


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

    def chunk(group: Array, index: Array, visit: Callable, gradients: tuple) -> tuple:
        dquery, *sums = gradients
        our_key, our_value = (of_keys.take(array, group, index) for array in (key, value))
        mine, transposed = of_keys.marks(keys, group, index), our_key.mT

        def pair(at: Array, so_far: tuple, masked: bool) -> tuple:
            dquery, *sums = so_far
            theirs, *rest = (of_queries.take(array, group, at) for array in (query, cotangent, lse, delta))
            marks = of_queries.marks(queries, group, at)
            more, *parts = differentiate(
                theirs, our_key, our_value, marks, mine, *rest, transposed=transposed, masked=masked, on_cpu=chunks.on_cpu
            )
            place = (group * of_queries.together, 0, at * of_queries.size)
            more += lax.dynamic_slice(dquery, place, more.shape)
            return lax.dynamic_update_slice(dquery, more, place), *(a + b for a, b in zip(sums, parts, strict=True))

        nothing = jnp.zeros(our_key.shape, jnp.float32)
        dquery, *parts = visit(pair, (dquery, nothing, nothing))
        return dquery, *(of_keys.put(array, part, group, index) for array, part in zip(sums, parts, strict=True))

    zero = jnp.zeros(key.shape, jnp.float32)
    return _visit((of_keys, of_queries), keys, queries, query.shape[0], chunk, (dquery, zero, zero))
