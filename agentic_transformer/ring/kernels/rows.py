"""Lays a kernel's arrays out as rows, one for each (batch, key head), and pads halves of blocks.

The query heads of a key head lie one after another along the token axis of a row, so that grouped
heads share one product with their keys:

    query (batch, heads, tokens, head_dim)  ->  (batch * key_heads, n * tokens, head_dim)
    key (batch, key_heads, tokens, head_dim)  ->  (batch * key_heads, tokens, head_dim)

with n = heads / key_heads, the heads per key head.

Queries are two halves of a block (the two natural blocks of a device), keys any number of such
halves. Positions are consecutive within a half only. So each half is padded by itself: a chunk that
straddled two halves would be visible to too many others.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from agentic_transformer.ring.masks import PAD_POSITION, KeyPositions, Mask, QueryIntervals


def pad_halves(array: Array, half: int, padded: int, axis: int = 2, **options: Any) -> Array:
    """Pads every `half` tokens along an axis to `padded`; options are those of `jnp.pad`."""
    if half == padded:
        return array
    axis %= array.ndim
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    halves = array.reshape(*before, -1, half, *after)
    widths = [(0, 0)] * halves.ndim
    widths[axis + 1] = (0, padded - half)
    return jnp.pad(halves, widths, **options).reshape(*before, -1, *after)


def unpad_halves(array: Array, half: int, padded: int) -> Array:
    """Inverts `pad_halves` along the token axis of (batch, heads, tokens, ...)."""
    if half == padded:
        return array
    before, after = array.shape[:2], array.shape[3:]
    return array.reshape(*before, -1, padded, *after)[:, :, :, :half].reshape(*before, -1, *after)


def to_rows(tree: Any, key: Array) -> Any:
    """Returns rows (rows, tokens, ...) of arrays (batch, heads or key_heads, tokens, ...)."""
    rows = key.shape[0] * key.shape[1]
    return jax.tree.map(lambda array: array.reshape(rows, -1, *array.shape[3:]), tree)


def reshape_like(tree: Any, like: Any) -> Any:
    """Returns the arrays of a tree in the shapes of those of another."""
    return jax.tree.map(lambda other, array: array.reshape(other.shape), like, tree)


def mask_fields_of_rows(
    mask: Mask, query: Array, key: Array
) -> tuple[QueryIntervals, KeyPositions]:
    """Returns the mask fields of rows of padded arrays; padding sees nothing and is not seen.

    Args:
        mask: the mask of arrays without padding.
        query: (batch, heads, padded tokens, head_dim); only its shape is used.
        key: (batch, key_heads, padded tokens, head_dim).
    """
    half, padded = mask.queries.low.size // 2, query.shape[2] // 2
    key_heads, heads_per_key_head = key.shape[1], query.shape[1] // key.shape[1]

    def pad(array: Array, **options: Any) -> Array:
        return pad_halves(array, half, padded, axis=-1, **options)

    def pad_segment(segment: Array | None) -> Array | None:
        """Pads and repeats (batch, tokens) -> (rows, padded tokens)."""
        return None if segment is None else jnp.repeat(pad(segment, mode="edge"), key_heads, axis=0)

    (low, high, segment), (position, key_segment) = mask.queries, mask.keys
    low, high = pad(low, constant_values=PAD_POSITION), pad(high, constant_values=-1)
    queries = QueryIntervals(low, high, pad_segment(segment))
    queries = jax.tree.map(lambda array: jnp.tile(array, heads_per_key_head), queries)
    position = pad(position, constant_values=PAD_POSITION)
    return queries, KeyPositions(position, pad_segment(key_segment))
