"""Lists a kernel's calls in one step of the ring, with masks as static as the kernel needs them.

On device i of N, step s brings the keys of device j = (i - s) mod N. Both blocks are two halves
(low, high) of consecutive positions. For causal attention without window and length:

    layout       step 0    step s >= 1
    zigzag       CAUSAL    (high queries, low keys) are FULL on every device, and so are
                           (x queries, x keys) with x = low if j < i, else high; the rest is EMPTY
    contiguous   CAUSAL    FULL if j < i, else EMPTY

At step 0 the order within a block is monotone in position, so one CAUSAL call has both halves. In
zigzag order x is traced but the shapes are the same, so no branch is needed and every device has
the same work. A kernel that supports DYNAMIC masks is called once a step, on whole blocks: it skips
what is hidden by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.kernels import Kernel
from agentic_transformer.ring.masks import KeyPositions, Mask, MaskKind, QueryIntervals


class Pair(NamedTuple):
    """Describes one call of a kernel: on which queries and keys, and with which mask.

    Attributes:
        query_half: which half of the queries, 0 or 1, may be traced; None for the whole block.
        key_half: as `query_half`, of the keys.
        mask: the mask of these queries and keys.
        when: whether the call is made, traced; None for always.
    """

    query_half: Array | int | None
    key_half: Array | int | None
    mask: Mask
    when: Array | None = None


def needs_dynamic(config: RingConfig, *, has_length: bool) -> bool:
    """Returns whether a ring has masks that no static kind describes."""
    gathers_causal = config.all_gather and config.causal and config.ring_size > 1
    has_window = config.window is not None and not has_static_window(config)
    return has_window or has_length or gathers_causal


def has_static_window(config: RingConfig) -> bool:
    """Returns whether the kernel is told of a window statically: one device, and it can be told."""
    kernel = config.kernel
    told = kernel is not None and not kernel.supports_dynamic and kernel.supports_windows
    return config.window is not None and config.ring_size == 1 and told


def step_pairs(
    config: RingConfig,
    device: Array,
    step: Array | int,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    has_length: bool,
) -> list[Pair]:
    """Returns the kernel's calls at a step of the ring.

    Args:
        config: the ring.
        device: index of this device.
        step: a Python integer where it is static.
        queries: what this device's queries see.
        keys: where the keys are that are here at this step.
        has_length: whether positions from some length on are padding.
    """

    def whole(kind: MaskKind, when: Array | None = None) -> list[Pair]:
        window = config.window if kind is MaskKind.CAUSAL else None
        return [Pair(None, None, Mask(kind, queries, keys, window), when)]

    if needs_dynamic(config, has_length=has_length):
        return whole(MaskKind.DYNAMIC)
    if not config.causal:
        return whole(MaskKind.FULL)
    if isinstance(step, int) and step == 0:
        return whole(MaskKind.CAUSAL)
    if config.kernel.supports_dynamic:
        return whole(MaskKind.DYNAMIC)
    is_earlier = device >= step  # j < i: the step did not wrap around the ring
    if config.layout == "contiguous":
        return whole(MaskKind.FULL, when=is_earlier)
    half = jnp.where(is_earlier, 0, 1)
    return [_half_pair(1, 0, queries, keys), _half_pair(half, half, queries, keys)]


def _half_pair(query_half, key_half, queries: QueryIntervals, keys: KeyPositions) -> Pair:
    mask = Mask(
        MaskKind.FULL,
        take_half(queries, query_half, axis=-1),
        take_half(keys, key_half, axis=-1),
    )
    return Pair(query_half, key_half, mask)


def take_half(tree: Any, half: Array | int | None, axis: int) -> Any:
    """Returns one half of the token axis of all arrays; all of it if `half` is None."""
    if half is None:
        return tree

    def take(array: Array) -> Array:
        size = array.shape[axis] // 2
        return lax.dynamic_slice_in_dim(array, half * size, size, axis=axis % array.ndim)

    return jax.tree.map(take, tree)


def put_half(tree: Any, part: Any, half: Array | int | None, axis: int) -> Any:
    """Returns the tree with one half of the token axis of all arrays replaced by `part`."""
    if half is None:
        return part

    def put(array: Array, part: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(array, part, half * part.shape[axis], axis=axis)

    return jax.tree.map(put, tree, part)


def _kernel_and_halves(config: RingConfig) -> tuple[Kernel, Callable, Callable]:
    """Returns the kernel, and `take_half` and `put_half` along its axis of tokens."""
    axis = config.kernel.token_axis
    return config.kernel, partial(take_half, axis=axis), partial(put_half, axis=axis)


def in_turn(pair: Pair, before: Any) -> tuple[Pair, Any]:
    """Returns a pair whose halves are taken after `before` is computed, and `before`.

    Otherwise XLA takes the halves of all pairs at once, and holds them at the same time.
    """
    if not isinstance(pair.query_half, Array):
        return pair, before
    query_half, key_half, before = lax.optimization_barrier(
        (pair.query_half, pair.key_half, before)
    )
    return pair._replace(query_half=query_half, key_half=key_half), before


def forward_pair(config: RingConfig, pair: Pair, carry: Any, query, key, value) -> Any:
    """Returns the kernel's carry after one call; query, key and value are those of whole blocks."""
    kernel, take, put = _kernel_and_halves(config)
    pair, carry = in_turn(pair, carry)

    def attend(carry: Any) -> Any:
        part = kernel.forward(
            take(carry, pair.query_half),
            take(query, pair.query_half),
            take(key, pair.key_half),
            take(value, pair.key_half),
            pair.mask,
        )
        return put(carry, part, pair.query_half)

    return attend(carry) if pair.when is None else lax.cond(pair.when, attend, lambda x: x, carry)


def backward_pair(
    config: RingConfig, pair: Pair, residual: Any, gradients: tuple, query, key, value
) -> tuple[Any, Array, Array]:
    """Returns (running dquery, dkey, dvalue) after one call; dkey and dvalue are added to.

    Of `gradients`, dkey and dvalue are None before the first call of a step.
    """
    kernel, take, put = _kernel_and_halves(config)
    dquery, *sums = gradients
    pair, dquery = in_turn(pair, dquery)
    gradients = dquery, *sums
    if pair.key_half is None and pair.when is None:
        return kernel.backward(residual, dquery, query, key, value, pair.mask)

    def differentiate(gradients: tuple) -> tuple[Any, Array, Array]:
        dquery, *sums = gradients
        part, *parts = kernel.backward(
            take(residual, pair.query_half),
            take(dquery, pair.query_half),
            take(query, pair.query_half),
            take(key, pair.key_half),
            take(value, pair.key_half),
            pair.mask,
        )
        sums = (
            put(total, take(total, pair.key_half) + more, pair.key_half)
            for total, more in zip(sums, parts, strict=True)
        )
        return put(dquery, part, pair.query_half), *sums

    zero = jnp.zeros(key.shape, jnp.float32)
    gradients = dquery, *(zero if total is None else total for total in sums)
    if pair.when is None:
        return differentiate(gradients)
    return lax.cond(pair.when, differentiate, lambda gradients: gradients, gradients)
