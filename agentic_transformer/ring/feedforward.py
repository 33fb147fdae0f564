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
"""Chunks of a long sequence. If a hidden layer is 4 times as wide as the model, a chunk of it has a
quarter of the activations that the whole sequence has at the model's width."""

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
    """Applies a function of single tokens chunk by chunk, in the forward and the backward pass.

    Call it within a `jax.jit`: outside, it is compiled anew by each call, for each new function.
    Padding is treated as any other token. It must be finite: the gradients of the parameters sum
    over all tokens, and 0 times NaN is NaN. Each output depends on its own token alone.

    Args:
        function: (params, (batch, tokens, width)) -> (batch, tokens, any width), the same for every
            token; it closes over no array.
        params: a tree of arrays and numbers, whole on every device. The gradients of its floats are
            added over chunks in float32.
        x: (batch, sequence, width), its sequence sharded over `axis` if there is a mesh: every
            device goes through its own chunks.
        mesh: the devices, as in `ring_attention`, or None for one.
        axis: the mesh axis of the sequence.
        batch_axis: the mesh axis, or axes, of the batch.
        chunk: largest number of tokens of a sequence that a device takes at a time; None: see
            `default_chunk`. A device with no more tokens applies the function once, and stores its
            activations for the backward pass.

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
    # As many chunks as are needed, of nearly one size: a prime number of tokens has no divisor.
    # The rest is a shorter chunk. It is not padded: on padding the function might not be finite.
    size = -(-tokens // -(-tokens // chunk))
    rest = tokens % size
    whole = x[:, : tokens - rest].reshape(batch, -1, size, width)
    precision = jax.config.jax_default_matmul_precision
    params = jax.tree.map(
        lambda leaf: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf), params
    )
    last = x[:, tokens - rest :] if rest else None
    y, y_last = _map_chunks(function, precision, params, jnp.moveaxis(whole, 1, 0), last)
    y = jnp.moveaxis(y, 0, 1).reshape(batch, tokens - rest, y.shape[-1])
    return y if y_last is None else jnp.concatenate([y, y_last], axis=1)


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
def _map_chunks(
    function: Function, precision: str | None, params, chunks, last
) -> tuple[jax.Array, jax.Array | None]:
    """Applies a function to equal chunks, and to a shorter last chunk.

    Args:
        function: of (params, chunk).
        precision: of products, in the forward and the backward pass.
        params: of the function.
        chunks: (chunks, batch, tokens, width).
        last: (batch, fewer tokens, width), or None.

    Returns:
        (chunks, batch, tokens, output width), and the output of the last chunk or None.
    """
    # Where `jax.jit` or `jax.checkpoint` are around this, JAX traces it, and the gradient, outside
    # of the context in which the caller chose a precision.
    with jax.default_matmul_precision(precision):
        apply = partial(_apply_checked, function, params)
        return lax.map(apply, chunks), None if last is None else apply(last)


def _map_chunks_forward(function: Function, precision: str | None, params, chunks, last):
    return _map_chunks(function, precision, params, chunks, last), (params, chunks, last)


def _map_chunks_backward(function: Function, precision: str | None, saved, cotangents):
    params, chunks, last = saved
    leaves, tree = jax.tree.flatten(params)
    # Integers, flags and random keys among them have no gradient.
    inexact = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def apply(floats, x):
        of_floats = iter(floats)
        pairs = zip(leaves, inexact, strict=True)
        return function(
            tree.unflatten([next(of_floats) if is_float else leaf for leaf, is_float in pairs]), x
        )

    def step(totals, pair):
        chunk, cotangent = pair
        more, dchunk = jax.vjp(apply, floats, chunk)[1](cotangent)
        totals = [total + x.astype(total.dtype) for total, x in zip(totals, more, strict=True)]
        return totals, dchunk

    floats = [leaf for leaf, is_float in zip(leaves, inexact, strict=True) if is_float]
    totals = [jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)) for x in floats]
    dlast = None
    with jax.default_matmul_precision(precision):
        totals, dchunks = lax.scan(step, totals, (chunks, cotangents[0]))
        if last is not None:
            totals, dlast = step(totals, (last, cotangents[1]))
    dfloats = iter([total.astype(x.dtype) for total, x in zip(totals, floats, strict=True)])
    dparams = tree.unflatten([next(dfloats) if is_float else None for is_float in inexact])
    return dparams, dchunks, dlast


_map_chunks.defvjp(_map_chunks_forward, _map_chunks_backward)
