"""Cuts a large pair of blocks into chunks, and visits only the chunks that see each other.

The kernels in plain JAX share this; they work on rows (`rows.py`).

Each chunk of the outer kind visits the chunks of the inner kind in this order: full ones without a
mask, partly visible ones with a mask, partly visible ones of queries that need high precision.
Empty pairs are never visited. The order is made for one outer chunk at a time: a table of all pairs
would grow with the square of the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.kernels.rows import pad_halves, unpad_halves
from agentic_transformer.ring.masks import (
    BlockBounds,
    BlockMask,
    KeyPositions,
    QueryIntervals,
    block_bounds,
    block_mask,
)
from agentic_transformer.ring.validation import check_whole


class Chunks(NamedTuple):
    """Holds the sizes of a chunk, the part of a block that is computed at once.

    They bound memory, whatever the batch and the number of heads.

    Attributes:
        queries: tokens in a chunk of queries.
        keys: tokens in a chunk of keys.
        whole: largest number of keys of a block that is not cut into chunks.
        rows: (batch, key head) rows in a chunk.
    """

    queries: int
    keys: int
    whole: int
    rows: int = 1

    def fitted(self, query: Array, key: Array) -> Chunks:
        """Returns the largest sizes, at most these, that divide half of the tokens and the rows.

        Half of the tokens of one head: a row holds those of several heads, and a chunk that held
        the end of one head and the start of the next would be visible to too many keys.

        Args:
            query: (batch, heads, tokens, head_dim); only its shape is used.
            key: (batch, key_heads, tokens, head_dim).
        """
        batch, key_heads, keys = key.shape[:3]
        return self._replace(
            queries=_divisor(self.queries, query.shape[2] // 2),
            keys=_divisor(self.keys, keys // 2),
            rows=_divisor(self.rows, batch * key_heads),
        )

    def padded(self, half: int) -> int:
        """Returns the tokens to pad half a block to, so that it divides into equal chunks.

        Chunks are multiples of 16 tokens, as near the wanted size as may be.
        """
        if 2 * half <= self.whole:
            return half
        larger, smaller = max(self.queries, self.keys), min(self.queries, self.keys)
        parts, step = -(-half // larger), 16 * larger // smaller
        return parts * step * -(-half // (step * parts))

    def pad(self, array: Array) -> Array:
        """Pads the two halves of (batch, heads, tokens, ...)."""
        half = array.shape[2] // 2
        return pad_halves(array, half, self.padded(half))

    def unpad(self, array: Array, tokens: int) -> Array:
        """Inverts `pad`: returns (batch, heads, tokens, ...)."""
        return unpad_halves(array, tokens // 2, self.padded(tokens // 2))


def check_chunks(chunks: Any) -> None:
    """Raises ValueError unless these are sizes of chunks."""
    if not isinstance(chunks, Chunks):
        raise ValueError(f"chunks={chunks!r} must be a Chunks")
    for name, size in chunks._asdict().items():
        check_whole(f"chunks.{name}", size)


def _divisor(wanted: int, whole: int) -> int:
    return max(size for size in range(1, wanted + 1) if whole % size == 0)


class BlockSlicer(NamedTuple):
    """Takes chunks of rows (rows, tokens, ...), and puts them back.

    A chunk is `rows` rows of `size` tokens; `group` counts groups of rows, `index` chunks of
    tokens.
    """

    rows: int
    size: int

    def take(self, array: Array, group: Array, index: Array) -> Array:
        """Returns a chunk, (rows, size, ...)."""
        sizes = (self.rows, self.size, *array.shape[2:])
        return lax.dynamic_slice(array, self._start(array, group, index), sizes)

    def put(self, array: Array, chunk: Array, group: Array, index: Array) -> Array:
        """Returns the array with a chunk in place."""
        return lax.dynamic_update_slice(array, chunk, self._start(array, group, index))

    def mask_fields(
        self, fields: QueryIntervals | KeyPositions, group: Array, index: Array
    ) -> QueryIntervals | KeyPositions:
        """Returns the mask fields of a chunk."""
        *positions, segment = fields
        positions = (
            lax.dynamic_slice_in_dim(position, index * self.size, self.size)
            for position in positions
        )
        segment = None if segment is None else self.take(segment, group, index)
        return type(fields)(*positions, segment)

    def _start(self, array: Array, group: Array, index: Array) -> tuple:
        # Of one type: under jax_enable_x64 a Python integer would be int64 beside these.
        start = group * self.rows, index * self.size, *[0] * (array.ndim - 2)
        return tuple(map(jnp.int32, start))


class BlockSchedule(NamedTuple):
    """Holds which inner chunks an outer chunk visits, in order.

    Attributes:
        order: (chunks,), the inner chunks: full, partly visible, partly visible in high precision,
            empty.
        full_end: end of the full chunks in `order`.
        plain_end: end of the partly visible chunks in normal precision.
        non_empty_end: end of the partly visible chunks in high precision.
    """

    order: Array
    full_end: Array
    plain_end: Array
    non_empty_end: Array

    @classmethod
    def make(cls, mask: BlockMask) -> BlockSchedule:
        """Returns the schedule of one outer chunk, from its mask (1 or rows of a group, chunks)."""
        non_empty, full = mask.non_empty.any(axis=0), mask.full.all(axis=0)
        partial_kind = jnp.where(mask.high_precision.any(axis=0), 2, 1)
        kind = jnp.where(full, 0, jnp.where(non_empty, partial_kind, 3))
        order = jnp.argsort(kind, stable=True).astype(jnp.int32)
        return cls(order, *((kind < end).sum(dtype=jnp.int32) for end in (1, 2, 3)))

    def run(self, start: Array | int, stop: Array, step: Callable, carry: Any) -> Any:
        """Runs `carry = step(index, carry)` over the chunks from `start` to `stop` in the order."""
        return lax.fori_loop(start, stop, lambda n, carry: step(self.order[n], carry), carry)

    def run_full(self, step: Callable, carry: Any) -> Any:
        """Runs over the full chunks."""
        return self.run(0, self.full_end, step, carry)

    def run_partial(self, step: Callable, carry: Any) -> Any:
        """Runs over all partly visible chunks."""
        return self.run(self.full_end, self.non_empty_end, step, carry)


def for_each_block(
    slicers: tuple[BlockSlicer, BlockSlicer],
    outer: QueryIntervals | KeyPositions,
    inner: KeyPositions | QueryIntervals,
    rows: int,
    step: Callable,
    carry: Any,
) -> Any:
    """Runs `carry = step(group, index, schedule, carry)` over the outer chunks that are not empty.

    Args:
        slicers: of the outer and of the inner arrays.
        outer: mask fields of the outer arrays.
        inner: mask fields of the inner arrays.
        rows: number of rows.
        step: is given the `BlockSchedule` of the outer chunk.
        carry: the start.
    """
    rows_at_once = slicers[0].rows
    count, inner_count = (
        fields[0].size // slicer.size
        for fields, slicer in zip((outer, inner), slicers, strict=True)
    )
    outer_bounds, inner_bounds = block_bounds(outer, count), block_bounds(inner, inner_count)

    def mask_of(outer: BlockBounds, inner: BlockBounds) -> BlockMask:
        queries_first = isinstance(outer.least, QueryIntervals)
        return block_mask(outer, inner) if queries_first else block_mask(inner, outer)

    # Outer chunks that see anything at all come first; the loop ends with them.
    busy = mask_of(outer_bounds, block_bounds(inner, 1)).non_empty.reshape(-1, count)
    busy = jnp.broadcast_to(busy, (rows, count)).reshape(-1, rows_at_once, count).any(axis=1)
    busy = busy.reshape(-1)  # (groups * count,)
    order = jnp.argsort(~busy, stable=True).astype(jnp.int32)

    def outer_step(n: Array, carry: Any) -> Any:
        group, index = order[n] // count, order[n] % count
        chunk = (BlockSlicer(rows_at_once, 1), group, index)
        everything = (BlockSlicer(rows_at_once, inner_count), group, 0)
        mask = mask_of(
            _slice_bounds(outer_bounds, *chunk), _slice_bounds(inner_bounds, *everything)
        )
        mask = BlockMask(*(flag.reshape(-1, inner_count) for flag in mask))
        return step(group, index, BlockSchedule.make(mask), carry)

    return lax.fori_loop(0, busy.sum(dtype=jnp.int32), outer_step, carry)


def _slice_bounds(
    bounds: BlockBounds, slicer: BlockSlicer, group: Array, index: Array | int
) -> BlockBounds:
    return BlockBounds(*(slicer.mask_fields(fields, group, index) for fields in bounds))
