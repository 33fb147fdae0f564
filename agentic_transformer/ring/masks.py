"""Represents causal masks, windows, padding and packed sequences in one form.

Each query sees the keys whose position lies in its interval `[low, high]` and whose segment equals
its own. Padding is a query with an empty interval, or a key at a position outside every interval.
Minima and maxima of the intervals over blocks of queries and keys tell which pairs of blocks are
fully visible, partly visible or empty, whatever the layout.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PAD_POSITION = 2**30
"""Position of a key that no query sees."""

MASK_VALUE = float(np.finfo(np.float32).min)
"""Start of a running maximum, and score of a hidden pair in the baselines. It is finite, so that a
query that sees nothing gives no NaN, and no finite float32 score lies below it."""

HIGH_PRECISION_KEYS = 1024
"""A query that sees fewer keys needs high precision: one key may have most of its weight."""


class QueryIntervals(NamedTuple):
    """Holds the interval of positions that each query sees, and the segment of each query."""

    low: jax.Array  # (queries,) int32, first visible position
    high: jax.Array  # (queries,) int32, last visible position; less than low: sees nothing
    segment: jax.Array | None  # (batch, queries) int32


class KeyPositions(NamedTuple):
    """Holds the position and the segment of each key."""

    position: jax.Array  # (keys,) int32
    segment: jax.Array | None  # (batch, keys) int32


class MaskKind(enum.Enum):
    """Lists the kinds of masks by what is known at trace time; segments may hide further keys."""

    FULL = "full"  # every query sees every key
    CAUSAL = "causal"  # query i sees the keys 0..i, counted within the arrays
    DYNAMIC = "dynamic"  # only the traced intervals tell


@dataclass(frozen=True)
class Mask:
    """Holds which queries see which keys.

    Masks of every kind hold the intervals. A kind other than DYNAMIC describes the same mask
    statically, for kernels that do not read positions.

    Attributes:
        kind: what is known at trace time.
        queries: what each query sees.
        keys: where each key is.
        window: of a causal mask: query i sees the keys i - window < j <= i; None: all up to i.
    """

    kind: MaskKind
    queries: QueryIntervals
    keys: KeyPositions
    window: int | None = None


def query_intervals(
    position: jax.Array,
    segment: jax.Array | None,
    *,
    causal: bool,
    window: int | None,
    length: jax.Array | int | None,
) -> QueryIntervals:
    """Returns the intervals of queries at natural positions `position` (queries,).

    If causal, query i sees the keys j with `i - window < j <= i`, else all keys. Positions from
    `length` on are padding: such queries see nothing, and such keys are not seen.
    """
    end = PAD_POSITION - 1 if length is None else length - 1
    high = jnp.minimum(position, end) if causal else jnp.full_like(position, end)
    low = jnp.zeros_like(position)
    if window is not None:
        low = jnp.maximum(low, position - (min(window, PAD_POSITION) - 1))
    return QueryIntervals(low, jnp.where(position <= end, high, -1), segment)


def visible(queries: QueryIntervals, keys: KeyPositions, *, keys_first: bool = False) -> jax.Array:
    """Returns True where a query sees a key.

    Returns:
        (1 or batch, queries, keys), or (1 or batch, keys, queries) if `keys_first`.
    """

    def along_queries(array: jax.Array) -> jax.Array:
        return array[..., None, :] if keys_first else array[..., :, None]

    def along_keys(array: jax.Array) -> jax.Array:
        return array[..., :, None] if keys_first else array[..., None, :]

    position = along_keys(keys.position)
    mask = (along_queries(queries.low) <= position) & (position <= along_queries(queries.high))
    mask = mask[None]
    if queries.segment is not None:
        mask = mask & (along_keys(keys.segment) == along_queries(queries.segment))
    return mask


def hide(
    scores: jax.Array,
    fill: float,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    keys_first: bool = False,
) -> jax.Array:
    """Fills the hidden entries of (batch, ..., queries, keys), or (batch, ..., keys, queries)."""
    mask = visible(queries, keys, keys_first=keys_first)
    mask = mask.reshape(mask.shape[0], *[1] * (scores.ndim - 3), *mask.shape[1:])
    return jnp.where(mask, scores, fill)


class BlockBounds(NamedTuple):
    """Holds minima and maxima of all mask fields over blocks: (..., blocks) instead of tokens."""

    least: QueryIntervals | KeyPositions
    most: QueryIntervals | KeyPositions


def block_bounds(fields: QueryIntervals | KeyPositions, blocks: int) -> BlockBounds:
    """Returns the bounds of mask fields over `blocks` equal blocks."""
    fields = jax.tree.map(lambda values: values.reshape(*values.shape[:-1], blocks, -1), fields)
    return BlockBounds(
        jax.tree.map(lambda values: jnp.min(values, axis=-1), fields),
        jax.tree.map(lambda values: jnp.max(values, axis=-1), fields),
    )


class BlockMask(NamedTuple):
    """Holds what is known of pairs of blocks: (1 or batch, query blocks, key blocks) booleans.

    Attributes:
        non_empty: False only if no query of the pair sees any key of it.
        full: True only if every query of the pair sees every key of it.
        high_precision: False only if every query sees at least HIGH_PRECISION_KEYS keys in all.
    """

    non_empty: jax.Array
    full: jax.Array
    high_precision: jax.Array


def block_mask(queries: BlockBounds, keys: BlockBounds) -> BlockMask:
    """Returns the mask of every pair of a block of queries and a block of keys."""
    queries = jax.tree.map(lambda values: values[..., :, None], queries)
    keys = jax.tree.map(lambda values: values[..., None, :], keys)
    non_empty = (queries.most.high >= keys.least.position) & (
        queries.least.low <= keys.most.position
    )
    full = (queries.least.high >= keys.most.position) & (queries.most.low <= keys.least.position)
    few = queries.least.high - queries.most.low < HIGH_PRECISION_KEYS - 1
    few = jnp.broadcast_to(few, non_empty.shape)
    non_empty, full, few = non_empty[None], full[None], few[None]
    if queries.least.segment is not None:
        non_empty &= (queries.most.segment >= keys.least.segment) & (
            queries.least.segment <= keys.most.segment
        )
        full &= (queries.least.segment == keys.most.segment) & (
            queries.most.segment == keys.least.segment
        )
        few = jnp.ones_like(non_empty)  # a segment may be short
    return BlockMask(non_empty, full, few)
