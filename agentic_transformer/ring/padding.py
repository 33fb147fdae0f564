"""Handles rows with a length each: their padding becomes a segment of its own."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def signed_ids(segment_ids: jax.Array) -> jax.Array:
    """Returns integers as int32, or int64 if they have 64 bits; different ids stay different."""
    segment_ids = jnp.asarray(segment_ids)
    return segment_ids.astype(jnp.int64 if segment_ids.dtype.itemsize == 8 else jnp.int32)


def attend_within_lengths(
    attend: Callable[..., jax.Array],
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    segment_ids: jax.Array | None,
    position: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """Attends in rows that have a length each, by `attend(*arrays, segment_ids)`.

    Padding becomes a segment of its own. It holds zeros on the way in and on the way out: neither
    the padding nor its cotangent reaches a gradient.

    Args:
        attend: attention within segments.
        arrays: query, key and value, (batch, tokens, heads, head_dim).
        segment_ids: (batch, tokens), or None for one segment.
        position: (tokens,), natural positions.
        length: (batch,); a length outside 0..sequence acts as the nearest of these.

    Returns:
        (batch, tokens, heads, head_dim).
    """
    real = position < length[:, None]  # (batch, tokens)
    segment_ids = (
        jnp.zeros(real.shape, jnp.int32) if segment_ids is None else signed_ids(segment_ids)
    )
    pad_id = jnp.iinfo(segment_ids.dtype).min  # other ids start above it
    segment_ids = jnp.where(real, jnp.maximum(segment_ids, pad_id + 1), pad_id)
    real = real[..., None, None]
    output = attend(*(jnp.where(real, array, 0) for array in arrays), segment_ids)
    return jnp.where(real, output, 0)
