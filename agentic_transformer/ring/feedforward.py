"""Applies a feedforward layer to one chunk of the sequence at a time (BPT, arXiv 2305.19370).

Its wide activations exist for one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from agentic_transformer.ring.mesh import (
    GPUS,
    check_devices,
    map_over_devices,
    map_without_mesh,
    platform_of,
)
from agentic_transformer.ring.validation import (
    check_floats,
    check_shards,
    check_whole,
    ring_size_of,
)

CHUNKS = 16
"""Chunks of a long sequence: a layer four times as wide then holds a quarter of the activations of
one layer's width at a time."""

MIN_CHUNK = 256
"""Tokens in a chunk; smaller products would cost more than the memory they save."""

GPU_CHUNKS, GPU_MIN_CHUNK = 4, 4096
"""The same for GPUs, which need larger products. With `CHUNKS` and `MIN_CHUNK` an H200 took 1.2
times as long for a training step of 350M parameters on 16,000 tokens, and needed as much memory on
64,000."""

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
    """Applies a function of each token chunk by chunk, and again so in the backward pass.

    No token is padding here: padding must be finite, since the gradients of the parameters add up
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
        chunk: most tokens of a sequence that a device takes at a time; None: see `default_chunk`. A
            device with no more than that takes them all, and keeps what the function keeps.

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
    if chunk is None:
        ring_size = 1 if mesh is None else ring_size_of(mesh, axis)
        chunk = default_chunk(x.shape[1] // ring_size, platform_of(mesh))
    apply = partial(_in_chunks, function, chunk)
    if mesh is None:
        return map_without_mesh(lambda x, params: apply(params, x))(x, params)
    tokens = PartitionSpec(batch_axis, axis)
    # The loop over chunks runs within each device. A loop around `shard_map` would sum the
    # gradients of the parameters over the devices once a chunk, not once.
    return map_over_devices(apply, mesh, (PartitionSpec(), tokens), tokens)(params, x)


def default_chunk(tokens: int, platform: str) -> int:
    """Returns the tokens of a chunk: a 16th of a device's tokens, at least 256.

    On GPUs it is a quarter, at least 4,096.

    Args:
        tokens: of a sequence, on one device.
        platform: of the devices.
    """
    if platform in GPUS:
        return max(GPU_MIN_CHUNK, tokens // GPU_CHUNKS)
    return max(MIN_CHUNK, tokens // CHUNKS)


def _in_chunks(function: Function, chunk: int, params, x) -> jax.Array:
    batch, tokens, width = x.shape
    if tokens <= chunk:
        return _apply_checked(function, params, x)
    count = next(count for count in range(-(-tokens // chunk), tokens + 1) if tokens % count == 0)
    precision = jax.config.jax_default_matmul_precision
    chunks = jnp.moveaxis(x.reshape(batch, count, -1, width), 1, 0)
    y = _map_chunks(function, precision, params, chunks)
    return jnp.moveaxis(y, 0, 1).reshape(batch, tokens, y.shape[-1])


def _apply_checked(function: Function, params, x) -> jax.Array:
    """Returns the function's output; ValueError unless it is one vector for each token."""
    y = function(params, x)
    shape = getattr(y, "shape", None)
    if shape is None or len(shape) != 3 or shape[:2] != x.shape[:2]:
        found = type(y).__name__ if shape is None else shape
        raise ValueError(
            f"function gives {found} for tokens {x.shape}; it must be (batch, tokens, any width)"
        )
    return y


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _map_chunks(function: Function, precision: str | None, params, chunks) -> jax.Array:
    """Maps (chunks, batch, tokens, width) -> (chunks, batch, tokens, output width).

    Args:
        function: of (params, chunk).
        precision: in which products are computed, those of the gradients too.
        params: of the function.
        chunks: see above.
    """
    # Where `jax.jit` or `jax.checkpoint` are around this, JAX traces it, and the gradient, outside
    # of the context in which the caller chose a precision.
    with jax.default_matmul_precision(precision):
        return lax.map(partial(_apply_checked, function, params), chunks)


def _map_chunks_forward(function: Function, precision: str | None, params, chunks):
    return _map_chunks(function, precision, params, chunks), (params, chunks)


def _map_chunks_backward(function: Function, precision: str | None, saved, cotangents):
    params, chunks = saved

    def step(dparams, pair):
        chunk, cotangent = pair
        more, dchunk = jax.vjp(function, params, chunk)[1](cotangent)
        dparams = jax.tree.map(lambda total, x: total + x.astype(total.dtype), dparams, more)
        return dparams, dchunk

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params
    )
    with jax.default_matmul_precision(precision):
        dparams, dchunks = lax.scan(step, zeros, (chunks, cotangents))
    return jax.tree.map(lambda total, x: total.astype(x.dtype), dparams, params), dchunks


_map_chunks.defvjp(_map_chunks_forward, _map_chunks_backward)
