"""A feedforward layer over chunks of the sequence (BPT, arXiv 2305.19370): its wide activations exist for one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from agentic_transformer.ring.checks import check_shards

PARTS = 16
"""Chunks of a long sequence: a layer four times as wide then holds a quarter of the width's activations at a time."""

LEAST = 256
"""Tokens in a chunk below which smaller products cost more than they save."""

Function = Callable[[Any, jax.Array], jax.Array]


def blockwise_feedforward(
    function: Function,
    params: Any,
    x: jax.Array,
    *,
    mesh: Mesh | None = None,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    chunk: int | None = None,
) -> jax.Array:
    """Applies a function of each token chunk by chunk, and computes it again chunk by chunk in the backward pass.

    Args:
        function: (params, (batch, tokens, width)) -> (batch, tokens, any width), the same for every token; it closes over no
            array.
        params: a tree of arrays, whole on every device. Their gradients are added over chunks in float32.
        x: (batch, sequence, width), its sequence sharded over `axis` if there is a mesh: every device goes through its own
            chunks.
        mesh: the devices, or None for one.
        axis: the mesh axis of the sequence.
        batch_axis: the mesh axis, or axes, of the batch.
        chunk: most tokens of a sequence that a device takes at a time; None: a 16th of its tokens, at least 256. A device with no
            more than that takes them all, and keeps what the function keeps.

    Returns:
        (batch, sequence, width of the function's output).
    """
    check_shards(x.shape[0], x.shape[1], mesh, axis, batch_axis)
    apply = partial(_in_chunks, function, chunk)
    if mesh is None:
        return apply(params, x)
    tokens = PartitionSpec(batch_axis, axis)
    # A loop over chunks within each device: seen from outside, the gradients of the parameters would be added over the devices
    # once a chunk, not once.
    return jax.shard_map(apply, mesh=mesh, in_specs=(PartitionSpec(), tokens), out_specs=tokens, check_vma=False)(params, x)


def _in_chunks(function: Function, chunk: int | None, params, x) -> jax.Array:
    batch, tokens, width = x.shape
    chunk = max(LEAST, tokens // PARTS) if chunk is None else chunk
    if tokens <= chunk:
        return function(params, x)
    parts = next(count for count in range(-(-tokens // chunk), tokens + 1) if tokens % count == 0)
    y = _mapped(function, params, jnp.moveaxis(x.reshape(batch, parts, -1, width), 1, 0))
    return jnp.moveaxis(y, 0, 1).reshape(batch, tokens, y.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mapped(function: Function, params, chunks) -> jax.Array:
    """(chunks, batch, tokens, width) -> (chunks, batch, tokens, output width)."""
    return lax.map(partial(function, params), chunks)


def _mapped_forward(function: Function, params, chunks):
    return _mapped(function, params, chunks), (params, chunks)


def _mapped_backward(function: Function, saved, cotangents):
    params, chunks = saved

    def add(sums, pair):
        chunk, cotangent = pair
        of_params, of_chunk = jax.vjp(function, params, chunk)[1](cotangent)
        return jax.tree.map(lambda total, part: total + part.astype(total.dtype), sums, of_params), of_chunk

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)
    sums, of_chunks = lax.scan(add, zeros, (chunks, cotangents))
    return jax.tree.map(lambda total, x: total.astype(x.dtype), sums, params), of_chunks


_mapped.defvjp(_mapped_forward, _mapped_backward)
