"""Lays a kernel's arrays out as rows, one for each (batch, key head), and pads halves of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from agentic_transformer.ring.kernels.blocks import Chunks
from agentic_transformer.ring.masks import PAD_POSITION, KeyPositions, Mask, QueryIntervals


@dataclass(frozen=True)
class RowLayout:
    """Describes rows: the query heads of a key head lie one after another along the token axis.

    Grouped heads then share one product with their keys:

        query (batch, heads, tokens, head_dim)  ->  (batch * key_heads, group * tokens, head_dim)
        key (batch, key_heads, tokens, head_dim)  ->  (batch * key_heads, tokens, head_dim)

    Queries are two halves of a block (the two natural blocks of a device), keys any number of such
    halves. Positions are consecutive within a half only. So each half is padded by itself: a chunk
    that straddled two halves would be visible to too many others.

    Attributes:
        batch: rows of the batch.
        heads: query heads.
        key_heads: key heads.
        half: tokens of half a block.
        padded: tokens that each half is padded to.
    """

    batch: int
    heads: int
    key_heads: int
    half: int
    padded: int

    @classmethod
    def make(cls, chunks: Chunks, query: Array, key: Array) -> RowLayout:
        """Returns the rows of query (batch, heads, tokens, head_dim) and key."""
        half = query.shape[2] // 2
        return cls(*query.shape[:2], key.shape[1], half, chunks.padded(half))

    def query_shape(self, *rest: int) -> tuple[int, ...]:
        """Returns the shape of queries in rows, (rows, tokens, *rest)."""
        group = self.heads // self.key_heads
        return (self.batch * self.key_heads, group * 2 * self.padded, *rest)

    def pack(self, array: Array, fill: Any = 0) -> Array:
        """Returns rows (rows, tokens, ...) of (batch, heads or key_heads, tokens, ...)."""
        array = self._pad(array, axis=2, constant_values=fill)
        return array.reshape(self.batch * self.key_heads, -1, *array.shape[3:])

    def unpack(self, rows: Array, heads: int) -> Array:
        """Inverts `pack`: returns (batch, heads, tokens, ...) without padding."""
        halves = rows.reshape(self.batch, heads, -1, self.padded, *rows.shape[2:])
        tokens = halves[:, :, :, : self.half]
        return tokens.reshape(self.batch, heads, -1, *rows.shape[2:])

    def mask_fields(self, mask: Mask) -> tuple[QueryIntervals, KeyPositions]:
        """Returns the mask fields of rows; padding sees nothing and is not seen."""
        (low, high, segment), (position, key_segment) = mask.queries, mask.keys
        queries = QueryIntervals(
            self._pad(low, constant_values=PAD_POSITION),
            self._pad(high, constant_values=-1),
            self._segments(segment),
        )
        group = self.heads // self.key_heads
        queries = jax.tree.map(lambda array: jnp.tile(array, group), queries)
        position = self._pad(position, constant_values=PAD_POSITION)
        return queries, KeyPositions(position, self._segments(key_segment))

    def _segments(self, segment: Array | None) -> Array | None:
        """Returns segments of rows: (batch, tokens) -> (rows, padded tokens)."""
        if segment is None:
            return None
        return jnp.repeat(self._pad(segment, mode="edge"), self.key_heads, axis=0)

    def _pad(self, array: Array, axis: int = -1, **options: Any) -> Array:
        """Pads every half along an axis."""
        if self.half == self.padded:
            return array
        axis %= array.ndim
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        halves = array.reshape(*before, -1, self.half, *after)
        widths = [(0, 0)] * halves.ndim
        widths[axis + 1] = (0, self.padded - self.half)
        return jnp.pad(halves, widths, **options).reshape(*before, -1, *after)
