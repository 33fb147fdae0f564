"""Keeps NaN and infinity in a token from every query that does not see the token.

A hidden pair has a weight of exactly 0, but 0 times NaN is NaN: a product would carry a NaN, or an
infinity, to queries that do not see it. Two rules keep this from happening.

- A NaN travels where a mask can hide it: a key has a NaN if it or its value is not finite
  (`mark_keys`), which makes all of its scores NaN, and in the backward pass the log-sum-exp of a
  query is NaN if its gradient must be.
- The operands of products over pairs of which some are hidden hold 0 instead (`zero_nonfinite`).

Fully visible pairs need nothing. The cost is one pass over keys and values, and in the backward
pass one over queries and cotangents.
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
