"""What a query sees, in one form for causal masks, windows, padding and packed sequences.

Each query sees the keys whose position lies in its interval `[low, high]` and whose segment is its own. Padding is a query with
an empty interval, or a key at a position beyond every interval. The same intervals, reduced over chunks of queries and keys,
tell which pairs of chunks are wholly visible, partly visible or hidden, whatever the layout.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

NOWHERE = 2**30
"""Position of a key that no query sees."""


class Queries(NamedTuple):
    """Visible positions of each query, both ends included, and its segment."""

    low: jax.Array  # (queries,) int32
    high: jax.Array  # (queries,) int32
    segment: jax.Array | None  # (batch, queries) int32


class Keys(NamedTuple):
    """Position and segment of each key."""

    position: jax.Array  # (keys,) int32
    segment: jax.Array | None  # (batch, keys) int32


def queries_at(
    position: jax.Array, segment: jax.Array | None, *, causal: bool, window: int | None, length: jax.Array | int | None
) -> Queries:
    """The intervals of queries at natural positions `position` (queries,)."""
    end = NOWHERE - 1 if length is None else length - 1
    high = jnp.minimum(position, end) if causal else jnp.full_like(position, end)
    low = jnp.zeros_like(position) if window is None else position - (window - 1)
    return Queries(low, jnp.where(position <= end, high, -1), segment)


def visible(queries: Queries, keys: Keys, *, keys_first: bool = False) -> jax.Array:
    """Mask (1 or batch, queries, keys), or (1 or batch, keys, queries): True where a query sees a key."""

    def of_queries(array: jax.Array) -> jax.Array:
        return array[..., None, :] if keys_first else array[..., :, None]

    def of_keys(array: jax.Array) -> jax.Array:
        return array[..., :, None] if keys_first else array[..., None, :]

    at = of_keys(keys.position)
    mask = ((of_queries(queries.low) <= at) & (at <= of_queries(queries.high)))[None]
    if queries.segment is not None:
        mask = mask & (of_keys(keys.segment) == of_queries(queries.segment))
    return mask


class Extent(NamedTuple):
    """Least and greatest of a quantity over each chunk, (chunks,)."""

    least: jax.Array
    most: jax.Array


def extents(values: jax.Array | None, chunks: int) -> Extent | None:
    """Extent of `values` (..., tokens) over each of `chunks` equal parts of the last axis, and over all the others."""
    if values is None:
        return None
    parts = jnp.moveaxis(values.reshape(*values.shape[:-1], chunks, -1), -2, 0).reshape(chunks, -1)
    return Extent(parts.min(axis=1), parts.max(axis=1))


class QueryExtents(NamedTuple):
    """`Queries`, by chunk."""

    low: Extent
    high: Extent
    segment: Extent | None


class KeyExtents(NamedTuple):
    """`Keys`, by chunk."""

    position: Extent
    segment: Extent | None


def query_extents(queries: Queries, chunks: int) -> QueryExtents:
    """Extents of queries over equal chunks."""
    return QueryExtents(*(extents(values, chunks) for values in queries))


def key_extents(keys: Keys, chunks: int) -> KeyExtents:
    """Extents of keys over equal chunks."""
    return KeyExtents(*(extents(values, chunks) for values in keys))


def pairs(queries: QueryExtents, keys: KeyExtents) -> tuple[jax.Array, jax.Array]:
    """Which chunks of queries and keys see each other; the extents broadcast, one chunk of the one against all of the other.

    Returns:
        (partly, wholly), booleans. `wholly` is True only if every query of the one sees every key of the other. `partly` may
        be True for a pair that turns out hidden, never False for one that is partly visible.
    """
    low, high, at = queries.low, queries.high, keys.position
    some = (high.most >= at.least) & (low.least <= at.most)
    wholly = (high.least >= at.most) & (low.most <= at.least)
    if queries.segment is not None:
        ours, theirs = queries.segment, keys.segment
        some &= (ours.most >= theirs.least) & (ours.least <= theirs.most)
        wholly &= (ours.least == ours.most) & (theirs.least == theirs.most) & (ours.least == theirs.least)
    return some & ~wholly, wholly
