"""What a query does not see must not reach it, whatever it holds.

A hidden pair has a weight of exactly 0, but 0 times NaN is NaN: a product would carry a NaN, or an
infinity, to queries that do not see it. So a NaN travels where masks can hide it: in all scores of
a key (`marked`), and in the log-sum-exp of a query. Products of pairs of which some are hidden take
operands that are `cleared`. Pairs that are wholly visible need nothing, so that the cost is one
pass over keys and values, and one over queries and cotangents in the backward pass.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp


def finite(*arrays: jax.Array) -> jax.Array:
    """Returns whether a token is finite in all of the arrays (..., tokens, head_dim): (...,
    tokens).
    """
    return reduce(operator.and_, (jnp.isfinite(array).all(axis=-1) for array in arrays))


def cleared(array: jax.Array) -> jax.Array:
    """Returns an array with 0 for what is not finite."""
    return jnp.where(jnp.isfinite(array), array, 0)


def marked(key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns keys (..., tokens, head_dim) of which those are NaN that, or whose values, are not
    finite.
    """
    return jnp.where(finite(key, value)[..., None], key, jnp.nan)


def signed(segment_ids: jax.Array) -> jax.Array:
    """Returns segment ids, different ones as different ones, in int32, or int64 if they have 64
    bits.
    """
    segment_ids = jnp.asarray(segment_ids)
    return segment_ids.astype(jnp.int64 if segment_ids.dtype.itemsize == 8 else jnp.int32)


def with_lengths(
    attend: Callable[..., jax.Array],
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    segment_ids: jax.Array | None,
    position: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """Attends in rows of which each has a length of its own, `attend(*arrays, segment_ids)`.

    Padding becomes a segment of its own; it holds zeros on the way in and on the way out, so that
    nothing that pads, nor its cotangent, reaches a gradient.

    Args:
        attend: attention within segments.
        arrays: query, key and value, (batch, tokens, ..., head_dim).
        segment_ids: (batch, tokens), or None for one segment.
        position: (tokens,), natural positions.
        length: (batch,); those outside 0..sequence act as the nearest of these.
    """
    real = position < length[:, None]  # (batch, tokens)
    segment_ids = jnp.zeros(real.shape, jnp.int32) if segment_ids is None else signed(segment_ids)
    least = jnp.iinfo(segment_ids.dtype).min  # the padding's; ids start above it
    segment_ids = jnp.where(real, jnp.maximum(segment_ids, least + 1), least)
    real = real[..., None, None]
    output = attend(*(jnp.where(real, array, 0) for array in arrays), segment_ids)
    return jnp.where(real, output, 0)
