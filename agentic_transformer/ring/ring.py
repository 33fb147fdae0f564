"""Computes Ring Attention: exact attention over a sequence sharded on a ring of devices.

Liu, Zaharia and Abbeel 2023 (arXiv 2310.01889): every device keeps its queries; keys and values
travel around the ring. The permute of the next block starts before the attention to this one, and
sends only what the step began with, so that transfer and computation are independent. The gradients
of keys and values travel one step behind them, for the same reason. The ring is a rolled loop:
memory does not grow with the number of devices.

Arrays are those of one device, inside a `jax.shard_map`: (batch, heads, tokens, head_dim), or
(batch, tokens, heads, head_dim) if the kernel's `token_axis` is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.kernels import ReferenceKernel
from agentic_transformer.ring.layout import shard_positions
from agentic_transformer.ring.masks import KeyPositions, QueryIntervals, query_intervals
from agentic_transformer.ring.nonfinite import finite_tokens, mark_keys
from agentic_transformer.ring.pairs import StepCall, backward_step, forward_step, step_call

RESIDUAL_NAMES = ("ring_attention_out", "ring_attention_lse")
"""Names, for a policy of `jax.checkpoint`, of what the backward pass needs besides its inputs.

A policy that saves them keeps the ring from going around a second time before the backward pass.
"""


class KVBlock(NamedTuple):
    """Holds what travels around the ring."""

    key: Array  # (batch, key_heads, tokens, head_dim)
    value: Array  # as key
    segment: Array | None  # (batch, tokens)


class RingPosition(NamedTuple):
    """Holds where a device stands on the ring, and what its queries see."""

    device: Array  # index on the ring
    queries: QueryIntervals
    has_length: bool


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attention_shard(
    config: RingConfig,
    query: Array,
    key: Array,
    value: Array,
    segment: Array | None,
    length: Array | None,
) -> Array:
    """Computes the attention of one device's queries to the keys of all devices.

    Args:
        config: the ring.
        query: (batch, heads, tokens, head_dim), in layout order; or tokens first, see above.
        key: (batch, key_heads, tokens, head_dim).
        value: as key.
        segment: (batch, tokens), or None for one segment.
        length: natural positions from here on are padding; None: there is none.

    Returns:
        As query.
    """
    return _attention_forward(config, query, key, value, segment, length)[0]


def _attention_forward(config: RingConfig, query, key, value, segment, length):
    out, lse = _differentiable(_forward_pass)(config, query, key, value, segment, length)
    kept, lse = map(checkpoint_name, (_merge_heads(config, out), lse), RESIDUAL_NAMES)
    return _split_heads(config, kept, out.shape), (query, key, value, segment, length, kept, lse)


def _attention_backward(config: RingConfig, saved, cotangent):
    query, key, value, segment, length, kept, lse = saved
    arrays = (query, key, value, _split_heads(config, kept, query.shape), lse, cotangent)
    gradients = _differentiable(_backward_pass)(config, *arrays, segment, length)
    return *gradients, None, None


attention_shard.defvjp(_attention_forward, _attention_backward)


def _forward_pass(config: RingConfig, query, key, value, segment, length) -> list[Array]:
    """Returns the output, in query's shape and dtype, and lse, without its last axis."""

    def ring_pass(query, key, value, segment):
        out, lse = _forward(config, query, mark_keys(key, value), value, segment, length)
        return [out.astype(query.dtype), lse]

    with jax.default_matmul_precision(config.precision):
        return config.kernel.map_heads(ring_pass, (query, key, value), segment)


def _backward_pass(
    config: RingConfig, query, key, value, out, lse, cotangent, segment, length
) -> list[Array]:
    """Returns the gradients of query, key and value, in their dtype."""

    def ring_pass(query, key, value, out, lse, cotangent, segment):
        # lse = +inf makes the weights exp(S - lse) of a query that sees nothing 0. lse = NaN makes
        # the query's gradient NaN; lse is NaN already where out is.
        lse = jnp.where(lse == -jnp.inf, jnp.inf, lse)
        lse = jnp.where(finite_tokens(query, cotangent), lse, jnp.nan)
        key = mark_keys(key, value)
        gradients = _backward(config, query, key, value, segment, length, out, lse, cotangent)
        inputs = (query, key, value)
        return [dx.astype(x.dtype) for dx, x in zip(gradients, inputs, strict=True)]

    arrays = (query, key, value, out, lse, cotangent)
    # JAX may trace this outside of the context of the forward pass.
    with jax.default_matmul_precision(config.precision):
        return config.kernel.map_heads(ring_pass, arrays, segment)


@cache
def _differentiable(ring_pass: Callable) -> Callable:
    """Returns a pass around the ring whose own gradient is that of the reference kernel.

    Gradients of gradients need it. JAX cannot differentiate the other kernels in reverse: they call
    libraries, or loop as often as the mask says.

    Args:
        ring_pass: of (config, *arrays, segment, length), returns a list of arrays.
    """
    differentiable = jax.custom_vjp(ring_pass, nondiff_argnums=(0,))

    def forward(config: RingConfig, *arguments: Array | None) -> tuple[list[Array], tuple]:
        return differentiable(config, *arguments), arguments

    def backward(config: RingConfig, arguments: tuple, cotangents: list[Array]) -> tuple:
        *arrays, segment, length = arguments
        reference = config._replace(kernel=ReferenceKernel())

        def swap(array: Array) -> Array:  # between the kernel's order of axes and the reference's
            return array if config.kernel.token_axis == 2 else jnp.swapaxes(array, 1, 2)

        def by_reference(*arrays: Array) -> list[Array]:
            return list(map(swap, ring_pass(reference, *map(swap, arrays), segment, length)))

        return *jax.vjp(by_reference, *arrays)[1](cotangents), None, None

    differentiable.defvjp(forward, backward)
    return differentiable


def _merge_heads(config: RingConfig, out: Array) -> Array:
    """Returns the output as (batch, tokens, heads * head_dim), the form in which it is kept.

    A TPU pads the last axis of an array to 128 entries: heads of 64 would take twice the memory.
    """
    out = jnp.moveaxis(out, config.kernel.token_axis, 1)
    return out.reshape(*out.shape[:2], -1)


def _split_heads(config: RingConfig, kept: Array, shape: tuple[int, ...]) -> Array:
    """Inverts `_merge_heads`: returns an output of this shape."""
    axis = config.kernel.token_axis
    heads, head_dim = shape[3 - axis], shape[-1]
    return jnp.moveaxis(kept.reshape(*kept.shape[:2], heads, head_dim), 1, axis)


def _forward(config: RingConfig, query, key, value, segment, length) -> tuple[Array, Array]:
    """Returns out, in the shape of query, and lse, without its last axis, in float32."""
    kernel, tokens = config.kernel, query.shape[config.kernel.token_axis]
    position, query = _ring_position(config, query, segment, length)
    query, key, value = map(kernel.pack, (query, key, value))
    block, carry = KVBlock(key, value, segment), kernel.init(query, key)

    def attend(step: Array | int, block: KVBlock, carry: Any) -> Any:
        call = _step_call(config, position, step, block)
        return forward_step(config, call, carry, query, block.key, block.value)

    def ring_step(carried: tuple[KVBlock, Any], step: Array | int) -> tuple:
        block, carry = carried
        arriving = _rotate(config, block)
        return (arriving, attend(step, block, carry)), None

    if config.all_gather:
        carry = attend(0, _all_gather(config, block), carry)
    else:
        block, carry = _all_steps_but_last(config, ring_step, (block, carry))
        carry = attend(config.ring_size - 1, block, carry)  # the last block travels no further
    out, lse = kernel.finish(carry, query)
    return kernel.unpack(out, tokens), kernel.unpack(lse, tokens)


def _backward(config: RingConfig, query, key, value, segment, length, out, lse, cotangent):
    """Returns the gradients of query, key and value; sums over blocks are float32."""
    kernel, tokens = config.kernel, query.shape[config.kernel.token_axis]
    position, query = _ring_position(config, query, segment, length)
    query, key, value = map(kernel.pack, (query, key, value))
    residual = kernel.prepare_backward(key, *map(kernel.pack, (out, lse, cotangent)))
    block, dquery = KVBlock(key, value, segment), kernel.init_backward(query, key)

    def differentiate(step: Array | int, block: KVBlock, dquery: Any) -> tuple[Any, Array, Array]:
        call = _step_call(config, position, step, block)
        return backward_step(config, call, residual, dquery, query, block.key, block.value)

    def add_step(carried: tuple, step: Array | int) -> tuple[Any, list]:
        """Returns dquery, and the sums of dkey and dvalue, after this step."""
        block, dquery, dblock = carried
        # The sums of the step before arrive here together with the block that they belong to.
        arrived = _rotate(config, dblock)
        dquery, *more = differentiate(step, block, dquery)
        if dblock is None:  # the first step, outside of the loop
            return dquery, [part.astype(jnp.float32) for part in more]
        return dquery, [total + part for total, part in zip(arrived, more, strict=True)]

    def ring_step(carried: tuple, step: Array | int) -> tuple:
        arriving = _rotate(config, carried[0])
        return (arriving, *add_step(carried, step)), None

    if config.axis is None:
        dquery, *dblock = differentiate(0, block, dquery)
    elif config.all_gather:
        dquery, *dblock = differentiate(0, _all_gather(config, block), dquery)
        axis = kernel.token_axis
        dblock = (
            lax.psum_scatter(
                total.astype(jnp.float32), config.axis, scatter_dimension=axis, tiled=True
            )
            for total in dblock
        )
    else:
        zero = jnp.zeros_like(key, jnp.float32)
        dblock = [zero, zero] if kernel.supports_dynamic else None
        carried = _all_steps_but_last(config, ring_step, (block, dquery, dblock))
        dquery, dblock = add_step(carried, config.ring_size - 1)
        # Both sums return to their device together. Without the barrier XLA may merge the last
        # permute of one sum with the permute before it of the other sum, which then waits for the
        # step's computation instead of running beside it.
        dblock = lax.optimization_barrier([total.astype(key.dtype) for total in dblock])
        dblock = _rotate(config, dblock)
    gradients = kernel.finish_backward(dquery, query), *dblock
    return [kernel.unpack(gradient, tokens) for gradient in gradients]


def _all_steps_but_last(config: RingConfig, ring_step: Callable, carried: Any) -> Any:
    """Runs a rolled loop, `carried, _ = ring_step(carried, step)`, over all steps but the last."""
    first, last = 0, config.ring_size - 1
    if last and not config.kernel.supports_dynamic:
        (carried, _), first = ring_step(carried, 0), 1  # outside of the loop its step is static
    return lax.scan(ring_step, carried, jnp.arange(first, last))[0] if last else carried


def _ring_position(config: RingConfig, query, segment, length) -> tuple[RingPosition, Array]:
    """Returns this device's position on the ring, and its queries.

    A barrier makes the position depend on the queries. Without it positions are constants: XLA and
    partial evaluation would hoist every mask out of the scan over layers, and store O(S^2) memory.
    """
    device = jnp.int32(0) if config.axis is None else lax.axis_index(config.axis)
    device, query = lax.optimization_barrier((device, query))
    tokens = query.shape[config.kernel.token_axis]
    position = shard_positions(device, tokens, config.ring_size, config.layout)
    queries = query_intervals(
        position, segment, causal=config.causal, window=config.window, length=length
    )
    return RingPosition(device, queries, length is not None), query


def _step_call(
    config: RingConfig, position: RingPosition, step: Array | int, block: KVBlock
) -> StepCall:
    """Returns what the kernel computes at a step of the ring."""
    tokens = position.queries.low.size

    def positions_of(device: Array) -> Array:
        return shard_positions(device, tokens, config.ring_size, config.layout)

    if config.all_gather:
        key_position = jax.vmap(positions_of)(jnp.arange(config.ring_size)).reshape(-1)
    else:
        key_position = positions_of((position.device - step) % config.ring_size)
    return step_call(
        config,
        position.device,
        step,
        position.queries,
        KeyPositions(key_position, block.segment),
        has_length=position.has_length,
    )


def _rotate(config: RingConfig, tree: Any) -> Any:
    """Sends a tree of arrays to the next device of the ring."""
    ring = [(i, (i + 1) % config.ring_size) for i in range(config.ring_size)]
    return jax.tree.map(lambda array: lax.ppermute(array, config.axis, ring), tree)


def _all_gather(config: RingConfig, block: KVBlock) -> KVBlock:
    """Collects the blocks of all devices, along the token axis."""
    if config.axis is None:
        return block

    def gather(array: Array, axis: int) -> Array:
        return lax.all_gather(array, config.axis, axis=axis, tiled=True)

    segment = None if block.segment is None else gather(block.segment, 1)
    axis = config.kernel.token_axis
    return KVBlock(gather(block.key, axis), gather(block.value, axis), segment)
