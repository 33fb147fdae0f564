"""The block kernel: attention of a block of queries to a block of keys, and its gradient.

A kernel is a pair of functions, `BlockKernel`, so that a GPU or TPU kernel can take the place of the plain JAX one below.
The forward function gives the block's own output and log-sum-exp; blocks are merged outside (`merge`). The backward function
takes the log-sum-exp of the *whole* row of attention, over all blocks, and gives this block's part of each gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LOWEST = -1e30
"""Starting point of a running maximum: finite, so that rows that see nothing give no NaN."""


class BlockKernel(NamedTuple):
    """Attention within one pair of blocks; the grouped query heads of a key head are laid along the query axis.

    Attributes:
        forward: `(query, key, value, queries, keys) -> (output, lse)`. query (batch, heads, queries, head_dim), key and value
            (batch, heads, keys, head_dim), heads being those of the keys. output of query's shape and lse (batch, heads, queries)
            in float32. A query that sees nothing has output 0 and lse -inf. Scores are scaled by `head_dim ** -0.5`.
        backward: `(query, key, value, queries, keys, cotangent, lse, delta) -> (dquery, dkey, dvalue)` in float32, dquery
            as (batch, heads, head_dim, queries): so products give it without a transposed operand, and it is transposed once,
            after the ring. cotangent is that of the final output, lse that of the whole row (+inf where a query sees nothing),
            delta (batch, heads, queries) the sum over head_dim of final output times cotangent.
        padded: `half -> int`, the tokens to which each half of a device's block is padded before the ring starts.
        one_row: `tokens -> bool`, given the tokens of a block: whether the (batch, head) rows go around the ring one after
            another, which takes the memory of one row for all that travels, or all at once.
    """

    forward: Callable[..., tuple[jax.Array, jax.Array]]
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    padded: Callable[[int], int]
    one_row: Callable[[int], bool]


def merge(output: jax.Array, lse: jax.Array, more: jax.Array, more_lse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Merges the attention of the same queries to two sets of keys; outputs (..., queries, head_dim), lse (..., queries)."""
    largest = jnp.maximum(jnp.maximum(lse, more_lse), LOWEST)
    weight, more_weight = jnp.exp(lse - largest), jnp.exp(more_lse - largest)
    total = weight + more_weight
    share = 1 / jnp.where(total > 0, total, 1)
    merged = output * (weight * share)[..., None] + more * (more_weight * share)[..., None]
    return merged, largest + jnp.log(total)
