"""What a query sees, in one form for causal masks, windows, padding and packed sequences.

Each query sees the keys whose position lies in its interval `[low, high]` and whose segment is its own. Padding is a query with an
empty interval, or a key at a position beyond every interval. The same intervals, reduced over chunks of queries and keys, tell which
pairs of chunks are wholly visible, partly visible or hidden, whatever the layout.
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


def visible(queries: Queries, keys: Keys) -> jax.Array:
    """Mask of shape (1 or batch, keys, queries): True where a query sees a key."""
    at = keys.position[:, None]
    mask = ((queries.low <= at) & (at <= queries.high))[None]
    if queries.segment is not None:
        mask = mask & (keys.segment[:, :, None] == queries.segment[:, None, :])
    return mask


class Extent(NamedTuple):
    """Least and greatest of a quantity over each chunk, reduced over the batch too."""

    least: jax.Array  # (chunks,)
    most: jax.Array  # (chunks,)


def extent(values: jax.Array, chunks: int) -> Extent:
    """Extent of `values` (..., tokens) over each of `chunks` equal parts of the last axis."""
    parts = jnp.moveaxis(values.reshape(*values.shape[:-1], chunks, -1), -2, 0).reshape(chunks, -1)
    return Extent(parts.min(axis=1), parts.max(axis=1))


def chunk_pairs(queries: Queries, keys: Keys, query_chunks: int, key_chunks: int) -> tuple[jax.Array, jax.Array]:
    """Which chunks see each other.

    Returns:
        (partly, wholly): two boolean arrays (query_chunks, key_chunks). `partly` may be True for a pair that turns out hidden, never False
        for one that is visible; `wholly` is True only if every query of the one sees every key of the other.
    """
    low, high, at = extent(queries.low, query_chunks), extent(queries.high, query_chunks), extent(keys.position, key_chunks)
    partly = (high.most[:, None] >= at.least) & (low.least[:, None] <= at.most)
    wholly = (high.least[:, None] >= at.most) & (low.most[:, None] <= at.least)
    if queries.segment is not None:
        ours, theirs = extent(queries.segment, query_chunks), extent(keys.segment, key_chunks)
        partly &= (ours.most[:, None] >= theirs.least) & (ours.least[:, None] <= theirs.most)
        single = (ours.least == ours.most)[:, None] & (theirs.least == theirs.most)
        wholly &= single & (ours.least[:, None] == theirs.least)
    return partly & ~wholly, wholly
