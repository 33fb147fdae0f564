"""The block kernel: attention of a block of queries to a block of keys, and its gradient.

A kernel is a pair of functions, `BlockKernel`, so that a GPU or TPU kernel can take the place of
the plain JAX one. The forward function continues a softmax from the blocks before (`Running`). The
backward function takes the log-sum-exp of the *whole* row of attention, over all blocks; it
continues the sum of the queries' gradient, and gives its part of the keys' and values' alone: those
travel, and to wait for the sum so far would be to wait for a transfer. Exponentials and logarithms
are to base 2, in which they cost less: `exp(s)` is `2 ** bits` of a score in bits, `bits = s / ln
2`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LOWEST = -1e30
"""Starting point of a running reference: finite, so that rows that see nothing give no NaN."""


class Running(NamedTuple):
    """Attention of queries to the keys that they have met, in float32.

    Attributes:
        reference: (..., queries), what scaled scores are relative to, in bits: near the greatest,
            at least LOWEST.
        total: (..., queries), the sum of weights `2 ** (score - reference)`.
        sums: (..., queries, head_dim), the sum of weights times values.
    """

    reference: jax.Array
    total: jax.Array
    sums: jax.Array

    @classmethod
    def start(cls, query: jax.Array) -> Running:
        """That of queries (..., queries, head_dim) that have met none."""
        rows = query.shape[:-1]
        return cls(
            jnp.full(rows, LOWEST, jnp.float32),
            jnp.zeros(rows, jnp.float32),
            jnp.zeros(query.shape, jnp.float32),
        )

    def relative_to(self, reference: jax.Array) -> Running:
        """The same attention with another reference, (..., queries)."""
        shrink = jnp.exp2(self.reference - reference)
        return Running(reference, self.total * shrink, self.sums * shrink[..., None])

    def finish(self) -> tuple[jax.Array, jax.Array]:
        """Output (..., queries, head_dim) and log-sum-exp (..., queries) in bits: 0 and -inf where
        a query saw nothing.
        """
        return self.sums / jnp.where(self.total > 0, self.total, 1)[
            ..., None
        ], self.reference + jnp.log2(self.total)


class BlockKernel(NamedTuple):
    """Attention within one pair of blocks; the grouped query heads of a key head are laid along the
    query axis.

    Attributes:
        forward: `(query, key, value, queries, keys, running) -> Running`. query (batch, heads,
            queries, head_dim), key and value (batch, heads, keys, head_dim), heads being those of
            the keys. Scores are scaled by `head_dim ** -0.5`. Arrays may hold NaN and infinities,
            and a key is NaN where its value is not finite; none of it may reach a query that does
            not see it, nor a key that is not seen.
        backward: `(query, key, value, queries, keys, cotangent, lse, delta, dquery) -> (dquery,
            dkey, dvalue)` in float32. The sum dquery is (batch, heads, head_dim, queries): so
            products give it without a transposed operand, and it is transposed once, after the
            ring. cotangent is that of the final output, lse that of the whole row in bits: +inf
            where a query sees nothing, NaN where its gradient is to be NaN. delta (batch, heads,
            queries) is the sum over head_dim of final output times cotangent.
        padded: `half -> int`, the tokens to which each half of a device's block is padded before
            the ring starts.
        one_row: `tokens -> bool`, given the tokens of a block: whether the (batch, head) rows go
            around the ring one after another, which takes the memory of one row for all that
            travels, or all at once.
    """

    forward: Callable[..., Running]
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    padded: Callable[[int], int]
    one_row: Callable[[int], bool]
