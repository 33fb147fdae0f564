"""Measures one device's whole work of a ring beside its fused calls alone, and beside one call.

One device's share of a ring of N has 1/N of the useful FLOPs of the whole sequence: the zigzag
order sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp

from experiments.benchmarks.gpu_attention_calls import (
    DIRECTIONS,
    directed,
    fused_kernel,
    one_fused_call,
    random_arrays,
    useful_flops,
)
from experiments.benchmarks.gpu_ring_share import calls_alone, share
from experiments.benchmarks.gpu_timing import Clock, compiled, is_small, measure_row, time_in_turn

_SHAPES = ((16, 64), (8, 128))
_CASES = ((8192, 8), (16384, 8), (2048, 8), (8192, 2), (8192, 32))
_CASES += ((2048, 2), (2048, 32), (16384, 2), (16384, 32))
"""Tokens a device and devices of the ring; those that tell most come first."""

_ROW_SECONDS = 8
_LONG = 2**18
_LONG_ROW_SECONDS = 40


def rows(clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields milliseconds and useful TFLOP/s of a device's share, and its speed over the others'.

    `of_calls_alone`: over the same fused calls without merges and copies. `of_one_call`: over one
    call for the whole sequence, with 1/N of its time.
    """
    cases = ((32, 2),) if is_small() else _CASES
    shapes = ((2, 16),) if is_small() else _SHAPES
    for tokens, ring in cases:
        for heads, head_dim in shapes:
            for direction in DIRECTIONS:
                row = {"heads": heads, "head_dim": head_dim, "tokens": tokens, "ring": ring}
                row |= {"direction": direction}
                seconds = _LONG_ROW_SECONDS if tokens * ring > _LONG else _ROW_SECONDS
                yield measure_row(clock, seconds, row, partial(_measure, **row))


def _measure(heads: int, head_dim: int, tokens: int, ring: int, direction: str) -> dict[str, Any]:
    kernel = fused_kernel(jnp.dtype(jnp.bfloat16), head_dim)
    arrays = jnp.int32(ring // 2), *random_arrays((1, tokens, heads, head_dim), jnp.bfloat16)
    whole = random_arrays((1, tokens * ring, heads, head_dim), jnp.bfloat16)
    timings = time_in_turn(
        {
            "share": compiled(share(kernel, ring, direction), *arrays),
            "calls": compiled(calls_alone(kernel, ring, direction), *arrays),
            "one": compiled(directed(one_fused_call, direction), *whole),
        },
        rounds=3 if tokens * ring > _LONG else 5,
    )
    rate = useful_flops(tokens * ring, heads, head_dim, direction) / ring / timings.median("share")
    return timings.row("share") | {
        "teraflops": rate / 1e12,
        "of_calls_alone": timings.ratio("calls", "share"),
        "of_one_call": timings.ratio("one", "share") / ring,
    }
