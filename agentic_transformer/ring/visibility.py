"""What a query sees, in one form for causal masks, windows, padding and packed sequences.

Each query sees the keys whose position lies in its interval `[low, high]` and whose segment is its
own. Padding is a query with an empty interval, or a key at a position beyond every interval. The
same intervals, reduced over chunks of queries and keys, tell which pairs of chunks are wholly
visible, partly visible or hidden, whatever the layout.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

NOWHERE = 2**30
"""Position of a key that no query sees."""

FEW = 1024
"""A query that sees fewer keys is computed with care: where more are seen, it is rare that one has
most of the weight."""


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
    position: jax.Array,
    segment: jax.Array | None,
    *,
    causal: bool,
    window: int | None,
    length: jax.Array | int | None,
) -> Queries:
    """The intervals of queries at natural positions `position` (queries,)."""
    end = NOWHERE - 1 if length is None else length - 1
    high = jnp.minimum(position, end) if causal else jnp.full_like(position, end)
    low = jnp.zeros_like(position)
    if window is not None:
        low = jnp.maximum(low, position - (min(window, NOWHERE) - 1))
    return Queries(low, jnp.where(position <= end, high, -1), segment)


def visible(queries: Queries, keys: Keys, *, keys_first: bool = False) -> jax.Array:
    """Mask (1 or batch, queries, keys), or (1 or batch, keys, queries): True where a query sees a
    key.
    """

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
    """Least and greatest of all marks over each of the chunks: the fields of marks, of chunks
    instead of tokens.
    """

    least: Queries | Keys
    most: Queries | Keys


def extent(marks: Queries | Keys, chunks: int) -> Extent:
    """What `marks` come to over each of `chunks` equal parts."""
    parts = jax.tree.map(lambda values: values.reshape(*values.shape[:-1], chunks, -1), marks)
    return Extent(
        *(
            jax.tree.map(lambda values, end=end: end(values, axis=-1), parts)
            for end in (jnp.min, jnp.max)
        )
    )


class Sight(NamedTuple):
    """What chunks of queries see of chunks of keys: booleans (1 or batch, chunks of queries, chunks
    of keys).

    Attributes:
        seen: False only if no query of the one sees any key of the other.
        wholly: True only if every query of the one sees every key of the other.
        few: False only if every query of the one sees at least FEW keys in all.
    """

    seen: jax.Array
    wholly: jax.Array
    few: jax.Array


def sight(queries: Extent, keys: Extent) -> Sight:
    """What the chunks of queries see of those of keys."""
    queries = Extent(*(jax.tree.map(lambda values: values[..., :, None], end) for end in queries))
    keys = Extent(*(jax.tree.map(lambda values: values[..., None, :], end) for end in keys))
    seen = (queries.most.high >= keys.least.position) & (queries.least.low <= keys.most.position)
    wholly = (queries.least.high >= keys.most.position) & (queries.most.low <= keys.least.position)
    few = jnp.broadcast_to(queries.least.high - queries.most.low < FEW - 1, seen.shape)
    seen, wholly, few = seen[None], wholly[None], few[None]
    if queries.least.segment is not None:
        seen &= (queries.most.segment >= keys.least.segment) & (
            queries.least.segment <= keys.most.segment
        )
        wholly &= (queries.least.segment == keys.most.segment) & (
            queries.most.segment == keys.least.segment
        )
        few = jnp.ones_like(seen)
    return Sight(seen, wholly, few)
