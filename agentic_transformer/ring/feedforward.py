"""A feedforward layer over chunks of the sequence (BPT, arXiv 2305.19370): its wide activations exist for one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from agentic_transformer.ring.checks import check_shards, ring_size_of

PARTS = 16
"""Chunks of a long sequence: a layer four times as wide then holds a quarter of the width's activations at a time."""

LEAST = 256
"""Tokens in a chunk below which smaller products cost more than they save."""


def blockwise_feedforward(
    function: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    mesh: Mesh | None = None,
    axis: str = "ring",
    chunk: int | None = None,
) -> jax.Array:
    """Applies a function of each token chunk by chunk, and rematerialises it chunk by chunk in the backward pass.

    Args:
        function: (batch, tokens, width) -> (batch, tokens, any width), the same for every token; may close over parameters.
        x: (batch, sequence, width), its sequence sharded over `axis` if there is a mesh: every device goes through its own
        chunks.
        mesh: the devices, or None for one.
        axis: the mesh axis of the sequence.
        chunk: most tokens of a sequence that a device takes at a time; None: a 16th of its tokens, at least 256. A device with no
            more than that takes them all, without rematerialisation.

    Returns:
        (batch, sequence, width of the function's output).
    """
    ring_size = 1 if mesh is None else ring_size_of(mesh, axis)
    batch, sequence, width = x.shape
    check_shards(batch, sequence, mesh, axis, None)
    tokens = sequence // ring_size
    chunk = max(LEAST, tokens // PARTS) if chunk is None else chunk
    if tokens <= chunk:
        return function(x)
    parts = next(count for count in range(-(-tokens // chunk), tokens + 1) if tokens % count == 0)
    size = tokens // parts
    # Chunk i of every device at once: the sequence stays sharded where it is.
    chunks = jnp.moveaxis(x.reshape(batch, ring_size, parts, size, width), 2, 0)

    @jax.checkpoint
    def apply(part: jax.Array) -> jax.Array:
        y = function(part.reshape(batch, ring_size * size, width))
        return y.reshape(batch, ring_size, size, y.shape[-1])

    y = lax.map(apply, chunks)
    return jnp.moveaxis(y, 0, 2).reshape(batch, sequence, y.shape[-1])
