"""Computes one device's whole share of a ring without the other devices (suite `gpu`).

The calls of the kernel are those that `ring/pairs.py` lists for a device, merges and sums of
gradients included. What another device would send is given by hand: the same block at every step,
since its values do not change the time. Nothing is transferred.

Arrays have cuDNN's order of axes, (batch, tokens, heads, head_dim).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.kernels.fused import FusedKernel
from agentic_transformer.ring.layout import shard_positions
from agentic_transformer.ring.masks import KeyPositions, query_intervals
from agentic_transformer.ring.nonfinite import finite_tokens, mark_keys
from agentic_transformer.ring.pairs import Pair, backward_pair, forward_pair, step_pairs


def share(kernel: FusedKernel, ring_size: int, direction: str) -> Callable:
    """Returns a device's share as a function of (device, query, key, value, cotangent).

    Args:
        kernel: of static masks.
        ring_size: devices of the ring, in zigzag order.
        direction: "forward" or "both".
    """
    config = RingConfig(None, ring_size, kernel)

    def pairs(device: Array, step: Array | int, tokens: int) -> list[Pair]:
        def positions(index: Array) -> Array:
            return shard_positions(index, tokens, ring_size, config.layout)

        queries = query_intervals(positions(device), None, causal=True, window=None, length=None)
        keys = KeyPositions(positions((device - step) % ring_size), None)
        return step_pairs(config, device, step, queries, keys, has_length=False)

    def forward(device: Array, query: Array, key: Array, value: Array) -> tuple[Array, Array]:
        key = mark_keys(key, value)

        def attend(carry: Any, step: Array | int) -> Any:
            block = _at_step((key, value), step)
            for pair in pairs(device, step, query.shape[kernel.token_axis]):
                carry = forward_pair(config, pair, carry, query, *block)
            return carry

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
            gradients = dquery, None, None
            block = _at_step((key, value), step)
            for pair in pairs(device, step, query.shape[kernel.token_axis]):
                gradients = backward_pair(config, pair, residual, gradients, query, *block)
            dquery, *more = gradients
            if sums is not None:  # those that arrived with the block
                more = [total + part for total, part in zip(sums, more, strict=True)]
            return dquery, more

        start = kernel.init_backward(query, key), None
        dquery, sums = _steps(differentiate, start, ring_size)
        gradients = kernel.finish_backward(dquery, query), *sums
        return [dx.astype(x.dtype) for dx, x in zip(gradients, arrays, strict=False)]

    def both(device: Array, query: Array, key: Array, value: Array, cotangent: Array) -> tuple:
        out, lse = forward(device, query, key, value)
        return out, *backward(device, out, lse, query, key, value, cotangent)

    return (lambda *arrays: forward(*arrays[:4])) if direction == "forward" else both


def calls_alone(kernel: FusedKernel, ring_size: int, direction: str) -> Callable:
    """Returns the fused calls of `share`, without merges, sums and copies of halves.

    Arguments and results are as those of `share`; the results mean nothing.
    """
    fused = kernel.fused

    def halves(array: Array) -> list[Array]:
        return jnp.split(array, 2, axis=kernel.token_axis)

    def forward(query: Array, key: Array, value: Array) -> Any:
        low, high = halves(query)
        keys, values = halves(key)[0], halves(value)[0]

        def attend(_: Any, step: Array) -> Any:
            block = _at_step((keys, values), step)
            return [fused.forward(half, *block, causal=False) for half in (high, low)]

        whole = fused.forward(query, key, value, causal=True)
        first = attend(None, jnp.int32(0)) if ring_size > 1 else None
        return whole, _rolled(attend, first, 2, ring_size)

    def backward(whole: tuple[Array, Array], *arrays: Array) -> Any:
        query, key, value, cotangent = arrays
        out, lse = whole
        queries, outs, lses, cotangents = map(halves, (query, out, lse, cotangent))
        keys, values = halves(key)[0], halves(value)[0]

        def differentiate(_: Any, step: Array) -> Any:
            block = _at_step((keys, values), step)
            pairs = zip(queries, outs, lses, cotangents, strict=True)
            return [fused.backward(half, *block, *rest, causal=False) for half, *rest in pairs]

        causal = fused.backward(query, key, value, out, lse, cotangent, causal=True)
        first = differentiate(None, jnp.int32(0)) if ring_size > 1 else None
        return causal, _rolled(differentiate, first, 2, ring_size)

    def run(_: Array, query: Array, key: Array, value: Array, cotangent: Array) -> Any:
        whole, parts = forward(query, key, value)
        if direction == "forward":
            return whole, parts
        return parts, backward(whole, query, key, value, cotangent)

    return run


def _steps(body: Callable, carry: Any, ring_size: int) -> Any:
    """Runs step 0, whose mask is causal, and the further steps as a rolled loop, as the ring."""
    return _rolled(body, body(carry, 0), 1, ring_size)


def _rolled(body: Callable, carry: Any, first: int, last: int) -> Any:
    steps = jnp.arange(first, last)
    return lax.scan(lambda carry, step: (body(carry, step), None), carry, steps)[0]


def _at_step(block: Any, step: Array | int) -> Any:
    """Returns the block, tied to the step: or XLA might compute all steps at once."""
    return lax.optimization_barrier((block, jnp.asarray(step)))[0]
