"""Attention of a large block in chunks, which on CPUs stay in a core's cache.

Of the chunks that a chunk sees, those that are wholly visible come first, without a mask, then
those that are so in part, with one, and last those of queries that see few keys, with care; pairs
that see nothing of each other are never visited. Which they are is told for one chunk at a time: a
table of all pairs would grow with the square of the block. Sums are updated in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.hidden import cleared
from agentic_transformer.ring.kernel import Running
from agentic_transformer.ring.pair import BITS, MODERATE, attend, differentiate, norm
from agentic_transformer.ring.visibility import Extent, Keys, Queries, Sight, extent, sight


class Chunks(NamedTuple):
    """What is computed at once, which bounds memory whatever the batch and the number of heads.

    Attributes:
        queries: tokens in a chunk of queries.
        keys: tokens in a chunk of keys.
        whole: keys of a block that is not cut.
        rows: (batch, head) rows at once.
        on_cpu: whether pairs are written as XLA's CPU backend is fast at, and visited by more
            loops, which cost a TPU memory.
    """

    queries: int
    keys: int
    whole: int
    rows: int = 1
    on_cpu: bool = True

    def fitted(self, rows: int, queries: int, keys: int) -> Chunks:
        """The largest sizes, no larger than wanted, that divide half of the queries, half of the
        keys, and the rows.
        """

        def divisor(wanted: int, whole: int) -> int:
            return max(size for size in range(1, wanted + 1) if whole % size == 0)

        return self._replace(
            queries=divisor(self.queries, queries // 2),
            keys=divisor(self.keys, keys // 2),
            rows=divisor(self.rows, rows),
        )


class Cut(NamedTuple):
    """How rows (rows, tokens, ...) are cut: a group of `together` rows, and of these a chunk of
    `size` tokens.
    """

    together: int
    size: int

    def take(self, array: Array, group: Array, index: Array) -> Array:
        """A chunk, (together, size, ...)."""
        return lax.dynamic_slice(
            array, self._start(array, group, index), (self.together, self.size, *array.shape[2:])
        )

    def put(self, array: Array, chunk: Array, group: Array, index: Array) -> Array:
        """The array with a chunk in place."""
        return lax.dynamic_update_slice(array, chunk, self._start(array, group, index))

    def marks(self, marks: Queries | Keys, group: Array, index: Array) -> Queries | Keys:
        """As `take`, of what tells which queries see which keys."""
        *positions, segment = marks
        positions = (
            lax.dynamic_slice_in_dim(position, index * self.size, self.size)
            for position in positions
        )
        return type(marks)(
            *positions, None if segment is None else self.take(segment, group, index)
        )

    def _start(self, array: Array, group: Array, index: Array) -> tuple:
        return group * self.together, index * self.size, *[0] * (array.ndim - 2)


class Visits(NamedTuple):
    """The chunks of the other kind that a chunk sees, in the order in which they are visited.

    Attributes:
        order: (chunks,): those that are wholly visible, those that are so in part, those that are
            so and need care, the unseen.
        whole_end: where the first kind ends in the order.
        plain_end: where the second ends.
        seen_end: where the third ends.
    """

    order: Array
    whole_end: Array
    plain_end: Array
    seen_end: Array

    @classmethod
    def of(cls, sight: Sight) -> Visits:
        """Those of one chunk, from what (1 or rows of a group, chunks) it sees."""
        seen, wholly, few = sight.seen.any(axis=0), sight.wholly.all(axis=0), sight.few.any(axis=0)
        kind = jnp.where(wholly, 0, jnp.where(~seen, 3, jnp.where(few, 2, 1)))
        order = jnp.argsort(kind, stable=True).astype(jnp.int32)
        return cls(order, *((kind < after).sum(dtype=jnp.int32) for after in (1, 2, 3)))

    def longest(self, lengths: Array) -> Array:
        """The greatest of lengths (rows of a group, chunks) of those that are wholly visible;
        infinite if there are none.
        """
        lengths = jnp.where(
            jnp.arange(self.order.size) < self.whole_end, lengths[:, self.order], 0
        ).max(axis=1)
        return jnp.where(self.whole_end > 0, lengths, jnp.inf)

    def wholly(self, pair: Callable, carry: Any, when: Array | bool = True) -> Any:
        """Runs `carry = pair(index, carry)` over those that are wholly visible, or over none."""
        return self._run(0, jnp.where(when, self.whole_end, 0), pair, carry)

    def partly(self, pair: Callable, carry: Any, *, all_careful: bool) -> Any:
        """Runs `carry = pair(index, carry, careful=)` over the others, with care where it is needed
        or for all.
        """
        careful_from = self.whole_end if all_careful else self.plain_end
        if not all_careful:
            carry = self._run(self.whole_end, self.plain_end, partial(pair, careful=False), carry)
        return self._run(careful_from, self.seen_end, partial(pair, careful=True), carry)

    def _run(self, start: Array | int, stop: Array, pair: Callable, carry: Any) -> Any:
        return lax.fori_loop(start, stop, lambda m, carry: pair(self.order[m], carry), carry)


def _over_chunks(
    cuts: tuple[Cut, Cut],
    ours: Queries | Keys,
    theirs: Keys | Queries,
    rows: int,
    chunk: Callable,
    carry: Any,
) -> Any:
    """Runs `carry = chunk(group, index, visits, carry)` over the chunks of the one kind that see
    any of the other.

    Args:
        cuts: how the one kind and the other are cut.
        ours: the marks of the one kind.
        theirs: those of the other.
        rows: (batch, head) rows.
        chunk: is given the `Visits` that it has to make.
        carry: the start.
    """
    together = cuts[0].together
    count, others = (
        marks[0].size // cut.size for marks, cut in zip((ours, theirs), cuts, strict=True)
    )
    of_ours, of_theirs = extent(ours, count), extent(theirs, others)

    def of_group(whole: Extent, cut: Cut, group: Array, index: Array | int = 0) -> Extent:
        return Extent(*(cut.marks(marks, group, index) for marks in whole))

    def see(ours: Extent, theirs: Extent) -> Sight:
        return sight(ours, theirs) if isinstance(ours.least, Queries) else sight(theirs, ours)

    some = see(of_ours, extent(theirs, 1)).seen.reshape(-1, count)
    some = (
        jnp.broadcast_to(some, (rows, count)).reshape(-1, together, count).any(axis=1).reshape(-1)
    )
    busy = jnp.argsort(~some, stable=True).astype(jnp.int32)

    def one(n: Array, carry: Any) -> Any:
        group, index = busy[n] // count, busy[n] % count
        seen = see(
            of_group(of_ours, Cut(together, 1), group, index),
            of_group(of_theirs, Cut(together, others), group),
        )
        return chunk(
            group, index, Visits.of(Sight(*(flag.reshape(-1, others) for flag in seen))), carry
        )

    return lax.fori_loop(0, some.sum(dtype=jnp.int32), one, carry)


def chunked_forward(
    chunks: Chunks,
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    running: Running,
) -> Running:
    """`BlockKernel.forward` over chunks; arrays and segments of rows, (rows, tokens, ...).

    On a CPU, where the lengths of a query and of wholly visible keys bound its scores, they are
    relative to 0 at least, and no maximum is looked for. That is told for each query by keys that
    it sees alone: other tokens must not round its output.
    """
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    of_queries, of_keys = Cut(chunks.rows, chunks.queries), Cut(chunks.rows, chunks.keys)
    query_lengths = norm(query)
    key_lengths = (
        norm(key).reshape(key.shape[0], -1, chunks.keys).max(axis=-1)
    )  # (rows, chunks of keys)
    scale = query.shape[-1] ** -0.5 * BITS

    def chunk(group: Array, index: Array, visits: Visits, running: Running) -> Running:
        ours, mine = of_queries.take(query, group, index), of_queries.marks(queries, group, index)

        def pair(at: Array, so_far: Running, **how: Any) -> Running:
            theirs = (of_keys.take(array, group, at) for array in (key, value))
            marks = of_keys.marks(keys, group, at)
            return attend(ours, *theirs, mine, marks, so_far, **how, on_cpu=chunks.on_cpu)

        start = Running(*(of_queries.take(array, group, index) for array in running))
        whole = partial(pair, masked=False, careful=False)
        after, rising, some_rise = start, True, True
        if chunks.on_cpu:
            longest = visits.longest(
                Cut(chunks.rows, key_lengths.shape[1]).take(key_lengths, group, 0)
            )
            bound = of_queries.take(query_lengths, group, index) * longest[..., None] * scale
            rising = ~(bound <= MODERATE)  # also where it is NaN
            some_rise = rising.any()
            after = start.relative_to(
                jnp.where(rising, start.reference, jnp.maximum(start.reference, 0))
            )
            after = visits.wholly(partial(whole, rising=False), after, when=~some_rise)
        after = visits.wholly(partial(whole, rising=rising), after, when=some_rise)
        after = visits.partly(partial(pair, masked=True), after, all_careful=not chunks.on_cpu)
        return Running(
            *(
                of_queries.put(array, part, group, index)
                for array, part in zip(running, after, strict=True)
            )
        )

    return _over_chunks((of_queries, of_keys), queries, keys, query.shape[0], chunk, running)


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
    """`BlockKernel.backward` over chunks; arrays and segments of rows, (rows, tokens, ...), dquery
    (rows, head_dim, tokens).

    Key chunks are the outer loop.
    """
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    of_queries, of_keys = Cut(chunks.rows, chunks.queries), Cut(chunks.rows, chunks.keys)

    def chunk(group: Array, index: Array, visits: Visits, gradients: tuple) -> tuple:
        dquery, *sums = gradients
        our_key, our_value = (of_keys.take(array, group, index) for array in (key, value))
        mine, transposed = of_keys.marks(keys, group, index), cleared(our_key).mT

        def pair(at: Array, so_far: tuple, **how: bool) -> tuple:
            dquery, *sums = so_far
            theirs, *rest = (
                of_queries.take(array, group, at) for array in (query, cotangent, lse, delta)
            )
            marks = of_queries.marks(queries, group, at)
            more, *parts = differentiate(
                theirs,
                our_key,
                our_value,
                marks,
                mine,
                *rest,
                transposed=transposed,
                **how,
                on_cpu=chunks.on_cpu,
            )
            place = (group * of_queries.together, 0, at * of_queries.size)
            more += lax.dynamic_slice(dquery, place, more.shape)
            return lax.dynamic_update_slice(dquery, more, place), *(
                a + b for a, b in zip(sums, parts, strict=True)
            )

        nothing = jnp.zeros(our_key.shape, jnp.float32)
        so_far = visits.wholly(
            partial(pair, masked=False, careful=False), (dquery, nothing, nothing)
        )
        dquery, *parts = visits.partly(
            partial(pair, masked=True), so_far, all_careful=not chunks.on_cpu
        )
        return dquery, *(
            of_keys.put(array, part, group, index) for array, part in zip(sums, parts, strict=True)
        )

    zero = jnp.zeros(key.shape, jnp.float32)
    return _over_chunks(
        (of_keys, of_queries), keys, queries, query.shape[0], chunk, (dquery, zero, zero)
    )
