"""Chooses the queries, keys and mask of the kernel's call in one step of the ring.

A kernel that does not support DYNAMIC masks gets static ones. On device i of N, step s brings the
keys of device j = (i - s) mod N. The blocks of queries and of keys are two halves each (low, high)
of consecutive positions. For causal attention without window and length:

    layout       step 0    step s >= 1, j < i             step s >= 1, j > i
    zigzag       CAUSAL    all queries, low keys: FULL    high queries, all keys: FULL
    contiguous   CAUSAL    all queries, all keys: FULL    nothing

At step 0 the order within a block is monotone in position, so one CAUSAL call has both halves. In
zigzag order every device has the same work at every step. Which of two calls it is depends on the
device and the step, so the program branches. Two calls on halves would need no branch, but copy
their halves and launch twice. Forward and backward together they were no faster on H200s, and
took more memory (`experiments/results/README.md`, "GPUs"). A kernel that supports DYNAMIC masks is
called on whole blocks without a branch: it skips what is hidden by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.masks import KeyPositions, Mask, MaskKind, QueryIntervals


class Pair(NamedTuple):
    """Describes one call of a kernel: on which queries and keys, and with which mask.

    Attributes:
        query_half: which half of the queries, 0 or 1; None for the whole block.
        key_half: as `query_half`, of the keys.
        mask: the mask of these queries and keys.
    """

    query_half: int | None
    key_half: int | None
    mask: Mask


class StepCall(NamedTuple):
    """Describes what is computed in one step of the ring.

    Attributes:
        pair: the call.
        when: whether it is made, traced; None for always.
        otherwise: the call that is made instead; None for nothing.
    """

    pair: Pair
    when: Array | None = None
    otherwise: Pair | None = None


def needs_dynamic(config: RingConfig, *, has_length: bool) -> bool:
    """Returns whether a ring has masks that no static kind describes."""
    gathers_causal = config.all_gather and config.causal and config.ring_size > 1
    has_window = config.window is not None and not has_static_window(config)
    return has_window or has_length or gathers_causal


def has_static_window(config: RingConfig) -> bool:
    """Returns whether the kernel gets the window as a static number, as it may on one device."""
    kernel = config.kernel
    told = kernel is not None and not kernel.supports_dynamic and kernel.supports_windows
    return config.window is not None and config.ring_size == 1 and told


def step_call(
    config: RingConfig,
    device: Array,
    step: Array | int,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    has_length: bool,
) -> StepCall:
    """Returns what the kernel computes at a step of the ring.

    Args:
        config: the ring.
        device: index of this device.
        step: a Python integer where it is static.
        queries: what this device's queries see.
        keys: positions and segments of the keys that this device holds at this step.
        has_length: whether positions from some length on are padding.
    """

    def pair(kind: MaskKind, query_half: int | None = None, key_half: int | None = None) -> Pair:
        window = config.window if kind is MaskKind.CAUSAL else None
        halves = take_half(queries, query_half, axis=-1), take_half(keys, key_half, axis=-1)
        return Pair(query_half, key_half, Mask(kind, *halves, window))

    if needs_dynamic(config, has_length=has_length):
        return StepCall(pair(MaskKind.DYNAMIC))
    if not config.causal:
        return StepCall(pair(MaskKind.FULL))
    if isinstance(step, int) and step == 0:
        return StepCall(pair(MaskKind.CAUSAL))
    if config.kernel.supports_dynamic:
        return StepCall(pair(MaskKind.DYNAMIC))
    is_earlier = device >= step  # j < i: the step did not wrap around the ring
    if config.layout == "contiguous":
        return StepCall(pair(MaskKind.FULL), when=is_earlier)
    low_keys, high_queries = pair(MaskKind.FULL, None, 0), pair(MaskKind.FULL, 1, None)
    return StepCall(low_keys, when=is_earlier, otherwise=high_queries)


def take_half(tree: Any, half: int | None, axis: int) -> Any:
    """Returns one half of the token axis of all arrays; all of it if `half` is None."""
    if half is None:
        return tree
    return jax.tree.map(lambda array: jnp.split(array, 2, axis=axis)[half], tree)


def put_half(tree: Any, part: Any, half: int | None, axis: int) -> Any:
    """Returns the tree with one half of the token axis of all arrays replaced by `part`."""
    if half is None:
        return part

    def put(array: Array, part: Array) -> Array:
        start = half * part.shape[axis]
        return lax.dynamic_update_slice_in_dim(array, part, start, axis=axis)

    return jax.tree.map(put, tree, part)


def forward_step(config: RingConfig, call: StepCall, carry: Any, query, key, value) -> Any:
    """Returns the kernel's carry after a step; query, key and value are those of whole blocks."""
    kernel, axis = config.kernel, config.kernel.token_axis

    def attend(pair: Pair, carry: Any) -> Any:
        block = take_half((key, value), pair.key_half, axis)
        # The carry is None before the first call, which is on whole blocks.
        before, queries = take_half((carry, query), pair.query_half, axis)
        part = kernel.forward(before, queries, *block, pair.mask)
        return put_half(carry, part, pair.query_half, axis)

    return _branch(call, attend, lambda carry: carry, carry)


def backward_step(
    config: RingConfig, call: StepCall, residual: Any, dquery: Any, query, key, value
) -> tuple[Any, Array, Array]:
    """Returns the running dquery, and the step's dkey and dvalue, of whole blocks."""
    kernel, axis = config.kernel, config.kernel.token_axis

    def differentiate(pair: Pair, dquery: Any) -> tuple[Any, Array, Array]:
        before, *queries = take_half((dquery, query, residual), pair.query_half, axis)
        query_part, residual_part = queries
        block = take_half((key, value), pair.key_half, axis)
        part, *gradients = kernel.backward(residual_part, before, query_part, *block, pair.mask)
        dquery = put_half(dquery, part, pair.query_half, axis)
        return dquery, *(_of_whole_block(dx, pair.key_half, axis) for dx in gradients)

    def nothing(dquery: Any) -> tuple[Any, Array, Array]:
        shapes = jax.eval_shape(partial(differentiate, call.pair), dquery)[1:]
        return dquery, *(jnp.zeros_like(key, shape.dtype, shape=shape.shape) for shape in shapes)

    return _branch(call, differentiate, nothing, dquery)


def _of_whole_block(array: Array, half: int | None, axis: int) -> Array:
    """Returns an array of one half of a block as that of the whole block, with zeros."""
    if half is None:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (half * array.shape[axis], (1 - half) * array.shape[axis])
    return jnp.pad(array, widths)


def _branch(call: StepCall, of_pair: Callable, of_nothing: Callable, carry: Any) -> Any:
    if call.when is None:
        return of_pair(call.pair, carry)
    otherwise = partial(of_pair, call.otherwise) if call.otherwise else of_nothing
    return lax.cond(call.when, partial(of_pair, call.pair), otherwise, carry)
