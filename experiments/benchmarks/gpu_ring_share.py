"""Computes one device's whole share of a ring without the other devices (suite `gpu`).

The calls of the kernel are those that `ring/pairs.py` lists for a device, merges and sums of
gradients included. What another device would send is given by hand: the same block at every step,
since its values do not change the time. Nothing is transferred.

Arrays have cuDNN's order of axes, (batch, tokens, heads, head_dim).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.kernels.fused import FusedKernel
from agentic_transformer.ring.layout import shard_positions
from agentic_transformer.ring.masks import KeyPositions, query_intervals
from agentic_transformer.ring.nonfinite import finite_tokens, mark_keys
from agentic_transformer.ring.pairs import StepCall, backward_step, forward_step, step_call


def share(kernel: FusedKernel, ring_size: int, direction: str) -> Callable:
    """Returns a device's share as a function of (device, query, key, value, cotangent).

    Args:
        kernel: of static masks.
        ring_size: devices of the ring, in zigzag order.
        direction: "forward" or "both".
    """
    config = RingConfig(None, ring_size, kernel)

    def call(device: Array, step: Array | int, tokens: int) -> StepCall:
        def positions(index: Array) -> Array:
            return shard_positions(index, tokens, ring_size, config.layout)

        queries = query_intervals(positions(device), None, causal=True, window=None, length=None)
        keys = KeyPositions(positions((device - step) % ring_size), None)
        return step_call(config, device, step, queries, keys, has_length=False)

    def forward(device: Array, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        key = mark_keys(key, value)

        def attend(carry: Any, step: Array | int) -> Any:
            block = _at_step((key, value), step)
            now = call(device, step, query.shape[kernel.token_axis])
            return forward_step(config, now, carry, query, *block)

        carry = _steps(attend, kernel.init(query, key), ring_size)
        out, lse = kernel.finish(carry, query)
        return out.astype(query.dtype), lse

    def backward(device: Array, out: Array, lse: Array, *arrays: Array) -> list[Array]:
        query, key, value, cotangent = arrays
        lse = jnp.where(finite_tokens(query, cotangent), lse, jnp.nan)
        key = mark_keys(key, value)
        residual = kernel.prepare_backward(key, out, lse, cotangent)

        def differentiate(carried: tuple, step: Array | int) -> tuple:
            dquery, sums = carried
            block = _at_step((key, value), step)
            now = call(device, step, query.shape[kernel.token_axis])
            dquery, *more = backward_step(config, now, residual, dquery, query, *block)
            if sums is None:
                return dquery, [part.astype(jnp.float32) for part in more]
            # `sums` are those that arrived with the block.
            return dquery, [total + part for total, part in zip(sums, more, strict=True)]

        start = kernel.init_backward(query, key), None
        dquery, sums = _steps(differentiate, start, ring_size)
        gradients = kernel.finish_backward(dquery, query), *sums
        return [dx.astype(x.dtype) for dx, x in zip(gradients, arrays, strict=False)]

    def both(device: Array, query: Array, key: Array, value: Array, cotangent: Array) -> tuple:
        out, lse = forward(device, query, key, value)
        return out, *backward(device, out, lse, query, key, value, cotangent)

    return (lambda *arrays: forward(*arrays[:4])) if direction == "forward" else both


def calls_alone(kernel: FusedKernel, ring_size: int, direction: str) -> Callable:
    """Returns the fused calls of `share`, without branches, merges, sums and copies of halves.

    Arguments and results are as those of `share`; the results mean nothing. A device in the middle
    of the ring: at half of its steps all queries meet low keys, at the others high queries meet all
    keys.
    """
    fused, axis = kernel.fused, kernel.token_axis

    def low(array: Array) -> Array:
        return jnp.split(array, 2, axis=axis)[0]

    def forward(query: Array, key: Array, value: Array) -> Any:
        queries, keys, values = map(low, (query, key, value))
        whole = fused.forward(query, key, value, causal=True)
        parts = _half_of_steps(
            lambda step: fused.forward(query, *_at_step((keys, values), step), causal=False),
            lambda step: fused.forward(queries, *_at_step((key, value), step), causal=False),
            ring_size,
        )
        return whole, parts

    def backward(whole: tuple[Array, Array], *arrays: Array) -> Any:
        query, key, value, cotangent = arrays
        of_query = query, *whole, cotangent
        low_query, keys, values = tuple(map(low, of_query)), low(key), low(value)

        def differentiate(of_query: tuple, block: tuple, step: Array) -> Any:
            query, *rest = of_query
            return fused.backward(query, *_at_step(block, step), *rest, causal=False)

        parts = _half_of_steps(
            partial(differentiate, of_query, (keys, values)),
            partial(differentiate, low_query, (key, value)),
            ring_size,
        )
        return fused.backward(query, key, value, *whole, cotangent, causal=True), parts

    def run(_: Array, query: Array, key: Array, value: Array, cotangent: Array) -> Any:
        whole, parts = forward(query, key, value)
        if direction == "forward":
            return whole, parts
        return parts, backward(whole, query, key, value, cotangent)

    return run


def _half_of_steps(first: Callable, second: Callable, ring_size: int) -> tuple[Any, Any]:
    """Runs one call at the first half of the further steps, another at the others."""
    half = ring_size // 2

    def over(call: Callable, start: int, stop: int) -> Any:
        if start == stop:
            return None
        return _rolled(lambda _, step: call(step), call(jnp.int32(start)), start + 1, stop)

    return over(first, 1, half + 1), over(second, half + 1, ring_size)


def _steps(body: Callable, carry: Any, ring_size: int) -> Any:
    """Runs step 0, whose mask is causal, and the further steps as a rolled loop, as the ring."""
    return _rolled(body, body(carry, 0), 1, ring_size)


def _rolled(body: Callable, carry: Any, first: int, last: int) -> Any:
    steps = jnp.arange(first, last)
    return lax.scan(lambda carry, step: (body(carry, step), None), carry, steps)[0]


def _at_step(block: Any, step: Array | int) -> Any:
    """Returns the block, tied to the step: or XLA might compute all steps at once."""
    return lax.optimization_barrier((block, jnp.asarray(step)))[0]
