"""A feedforward layer over chunks of the sequence (BPT, arXiv 2305.19370): its wide activations
exist for one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from agentic_transformer.ring.checks import check_floats, check_shards, check_whole
from agentic_transformer.ring.placement import check_devices, on_mesh, without_mesh

PARTS = 16
"""Chunks of a long sequence: a layer four times as wide then holds a quarter of the width's
activations at a time."""

LEAST = 256
"""Tokens in a chunk below which smaller products cost more than they save."""

Function = Callable[[Any, jax.Array], jax.Array]


def blockwise_feedforward(
    function: Function,
    params: Any,
    x: jax.Array,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    chunk: int | None = None,
) -> jax.Array:
    """Applies a function of each token chunk by chunk, and computes it again chunk by chunk in the
    backward pass.

    No token is padding here: what pads must be finite, since the gradients of the parameters add up
    over all tokens, and 0 times NaN is NaN. An output depends on its own token alone.

    Args:
        function: (params, (batch, tokens, width)) -> (batch, tokens, any width), the same for every
            token; it closes over no array.
        params: a tree of arrays, whole on every device. Their gradients are added over chunks in
            float32.
        x: (batch, sequence, width), its sequence sharded over `axis` if there is a mesh: every
            device goes through its own chunks.
        mesh: the devices, as in `ring_attention`, or None for one.
        axis: the mesh axis of the sequence.
        batch_axis: the mesh axis, or axes, of the batch.
        chunk: most tokens of a sequence that a device takes at a time; None: a 16th of its tokens,
            at least 256. A device with no more than that takes them all, and keeps what the
            function keeps.

    Returns:
        (batch, sequence, width of the function's output).

    Raises:
        ValueError: for arguments other than these.
    """
    check_floats(("batch", "sequence", "width"), x=x)
    if chunk is not None:
        check_whole("chunk", chunk)
    check_shards(*x.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, x=x)
    apply = partial(_in_chunks, function, chunk)
    if mesh is None:
        return without_mesh(lambda x, params: apply(params, x))(x, params)
    tokens = PartitionSpec(batch_axis, axis)
    # A loop over chunks within each device: seen from outside, the gradients of the parameters
    # would be added over the devices once a chunk, not once.
    return on_mesh(apply, mesh, (PartitionSpec(), tokens), tokens)(params, x)


def _in_chunks(function: Function, chunk: int | None, params, x) -> jax.Array:
    batch, tokens, width = x.shape
    chunk = max(LEAST, tokens // PARTS) if chunk is None else chunk
    if tokens <= chunk:
        return _of_tokens(function, params, x)
    parts = next(count for count in range(-(-tokens // chunk), tokens + 1) if tokens % count == 0)
    y = _mapped(function, params, jnp.moveaxis(x.reshape(batch, parts, -1, width), 1, 0))
    return jnp.moveaxis(y, 0, 1).reshape(batch, tokens, y.shape[-1])


def _of_tokens(function: Function, params, x) -> jax.Array:
    """The function's output; ValueError unless it is one vector for each token."""
    y = function(params, x)
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) != 3 or shape[:2] != x.shape[:2]:
        found = type(y).__name__ if shape is None else shape
        raise ValueError(
            f"function gives {found} for tokens {x.shape}; it must be (batch, tokens, any width)"
        )
    return y


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mapped(function: Function, params, chunks) -> jax.Array:
    """(chunks, batch, tokens, width) -> (chunks, batch, tokens, output width)."""
    return lax.map(partial(_of_tokens, function, params), chunks)


def _mapped_forward(function: Function, params, chunks):
    return _mapped(function, params, chunks), (params, chunks)


def _mapped_backward(function: Function, saved, cotangents):
    params, chunks = saved

    def add(sums, pair):
        chunk, cotangent = pair
        of_params, of_chunk = jax.vjp(function, params, chunk)[1](cotangent)
        return jax.tree.map(
            lambda total, part: total + part.astype(total.dtype), sums, of_params
        ), of_chunk

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params
    )
    sums, of_chunks = lax.scan(add, zeros, (chunks, cotangents))
    return jax.tree.map(lambda total, x: total.astype(x.dtype), sums, params), of_chunks


_mapped.defvjp(_mapped_forward, _mapped_backward)
