"""Measures one device's whole work of a ring beside its fused calls alone, and beside one call.

One device's share of a ring of N has 1/N of the useful FLOPs of the whole sequence: the zigzag
order sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.attention_passes import DIRECTIONS, directed, useful_flops
from experiments.benchmarks.gpu_attention_calls import (
    array_structs,
    fused_kernel,
    one_fused_call,
    random_arrays,
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
    for row in _cases():
        seconds = _LONG_ROW_SECONDS if _is_long(row) else _ROW_SECONDS
        yield measure_row(clock, seconds, row, partial(_measure, row))


def programs() -> Iterator[jax.stages.Lowered]:
    """Yields the programs of all rows."""
    for row in _cases():
        part, whole = (array_structs(shape, jnp.bfloat16) for shape in _shapes(row))
        for name, function in _functions(row).items():
            device = jax.ShapeDtypeStruct((), jnp.int32)
            yield jax.jit(function).lower(*(whole if name == "one" else (device, *part)))


def _cases() -> Iterator[dict[str, Any]]:
    """Yields what the rows measure."""
    cases = ((32, 2),) if is_small() else _CASES
    shapes = ((2, 16),) if is_small() else _SHAPES
    for (tokens, ring), (heads, head_dim), direction in product(cases, shapes, DIRECTIONS):
        row = {"heads": heads, "head_dim": head_dim, "tokens": tokens, "ring": ring}
        yield row | {"direction": direction}


def _is_long(row: dict[str, Any]) -> bool:
    return row["tokens"] * row["ring"] > _LONG


def _shapes(row: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of a device's arrays, and of those of the whole sequence."""
    tokens, sizes = row["tokens"], (row["heads"], row["head_dim"])
    return (1, tokens, *sizes), (1, tokens * row["ring"], *sizes)


def _functions(row: dict[str, Any]) -> dict[str, Callable]:
    """Returns what is compared: functions of (device, arrays of a device), "one" of whole ones."""
    kernel = fused_kernel(jnp.dtype(jnp.bfloat16), row["head_dim"])
    return {
        "share": share(kernel, row["ring"], row["direction"]),
        "calls": calls_alone(kernel, row["ring"], row["direction"]),
        "one": directed(one_fused_call, row["direction"]),
    }


def _measure(row: dict[str, Any]) -> dict[str, Any]:
    ring, direction = row["ring"], row["direction"]
    part, whole = (random_arrays(shape, jnp.bfloat16) for shape in _shapes(row))
    device = jnp.int32(ring // 2)
    timings = time_in_turn(
        {
            name: compiled(function, *(whole if name == "one" else (device, *part)))
            for name, function in _functions(row).items()
        },
        rounds=3 if _is_long(row) else 5,
    )
    flops = useful_flops(row["tokens"] * ring, row["heads"], row["head_dim"], direction)
    return timings.row("share") | {
        "teraflops": flops / ring / timings.median("share") / 1e12,
        "of_calls_alone": timings.ratio("calls", "share"),
        "of_one_call": timings.ratio("one", "share") / ring,
    }
