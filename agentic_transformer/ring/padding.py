"""Handles padding at the end of a sequence, for masks that do not know of it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

_PAD_BLOCK = 256
"""Tokens of padding that share a segment: kernels skip blocks whose segments differ, so that almost
nothing is computed among padding."""


def signed_ids(segment_ids: jax.Array) -> jax.Array:
    """Returns integers as int32, or int64 if they have 64 bits; different ids stay different."""
    segment_ids = jnp.asarray(segment_ids)
    return segment_ids.astype(jnp.int64 if segment_ids.dtype.itemsize == 8 else jnp.int32)


def clipped(values: jax.Array | int, least: int, most: int) -> jax.Array:
    """Returns integers as int32, clipped to least..most."""
    values = jnp.asarray(values)
    # Clipped in their own type: converted to int32 first, large ones would wrap around.
    known = jnp.iinfo(values.dtype)
    return jnp.clip(values, max(least, known.min), min(most, known.max)).astype(jnp.int32)


def attend_within_lengths(
    attend: Callable[..., jax.Array],
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    segment_ids: jax.Array | None,
    position: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """Attends in rows that have a length each, by `attend(*arrays, segment_ids)`.

    Padding becomes a segment of its own, or several short ones if the caller gives no segments. It
    holds zeros on the way in and on the way out: neither the padding nor its cotangent reaches a
    gradient.

    Args:
        attend: attention within segments.
        arrays: query, key and value, (batch, tokens, heads, head_dim).
        segment_ids: (batch, tokens), or None for one segment.
        position: (tokens,), natural positions.
        length: (batch,).

    Returns:
        (batch, tokens, heads, head_dim).
    """
    real = position[None] < length[:, None]  # (batch, tokens)
    if segment_ids is None:
        # Ascending: kernels compare the smallest and the largest id of two blocks.
        segment_ids = jnp.where(real, 0, 1 + position[None] // _PAD_BLOCK)
    else:
        segment_ids = signed_ids(segment_ids)
        pad_id = jnp.iinfo(segment_ids.dtype).min  # other ids start above it
        segment_ids = jnp.where(real, jnp.maximum(segment_ids, pad_id + 1), pad_id)
    real = real[..., None, None]
    output = attend(*(jnp.where(real, array, 0) for array in arrays), segment_ids)
    return jnp.where(real, output, 0)


def attend_before_padding(
    attend: Callable[..., jax.Array],
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    position: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """Attends causally in padded rows, by `attend(*arrays)`.

    Padding comes last, so no real query sees it under a causal mask. It holds zeros on the way in
    and on the way out: neither the padding nor its cotangent reaches a gradient.

    Args:
        attend: causal attention.
        arrays: query, key and value, (batch, tokens, heads, head_dim).
        position: (tokens,), natural positions.
        length: () or (batch,).

    Returns:
        (batch, tokens, heads, head_dim).
    """
    real = (position[None] < length.reshape(-1, 1))[..., None, None]  # (1 or batch, tokens, 1, 1)
    output = attend(*(jnp.where(real, array, 0) for array in arrays))
    return jnp.where(real, output, 0)
