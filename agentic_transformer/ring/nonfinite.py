"""Keeps NaN and infinity in a token from every query that does not see the token.

A hidden pair has a weight of exactly 0, but 0 times NaN is NaN: a product would carry NaN or
infinity to queries that do not see the token. Two rules prevent this.

- Scores carry NaN, since a mask can hide a score. A key that is not finite, or whose value is not,
  gets NaN entries (`mark_keys`), so all of its scores are NaN. In the backward pass the log-sum-exp
  of a query is set to NaN if the query's gradient must be NaN.
- In products over pairs of which some are hidden, 0 replaces NaN and infinity (`zero_nonfinite`).

Products over fully visible pairs need no replacement. The cost is one pass over keys and values,
and in the backward pass one over queries and cotangents.
"""

from __future__ import annotations

import operator
from functools import reduce

import jax
import jax.numpy as jnp


def finite_tokens(*arrays: jax.Array) -> jax.Array:
    """Returns (..., tokens): whether a token is finite in all arrays (..., tokens, head_dim)."""
    # One reduction over all arrays: on a GPU, one kernel.
    return reduce(operator.and_, map(jnp.isfinite, arrays)).all(axis=-1)


def zero_nonfinite(array: jax.Array) -> jax.Array:
    """Returns an array with 0 in place of NaN and infinity."""
    return jnp.where(jnp.isfinite(array), array, 0)


def mark_keys(key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns keys (..., tokens, head_dim), NaN at each entry where it or the value is not finite.

    One such entry makes all scores of the key NaN. So no reduction is needed: on a GPU, one kernel.
    """
    return jnp.where(jnp.isfinite(key) & jnp.isfinite(value), key, jnp.nan)
