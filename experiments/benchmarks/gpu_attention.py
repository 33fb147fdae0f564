"""Measures attention on one device beside one call of cuDNN, and peers (suite `gpu`).

A short sequence takes less time than the host needs to start a program. So a program computes it
several times, one after the other, as the layers of a model do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from agentic_transformer.ring import attention
from experiments.benchmarks.attention_passes import DIRECTIONS, directed, useful_flops
from experiments.benchmarks.gpu_attention_calls import (
    array_structs,
    one_fused_call,
    random_arrays,
    repeated,
)
from experiments.benchmarks.gpu_timing import (
    Clock,
    compiled,
    is_small,
    measure_row,
    time_in_turn,
)
from experiments.benchmarks.ring_layer import ring_mesh
from experiments.benchmarks.ring_speed import peers

_ROW_SECONDS = {"one call": 8, "others": 15}
_ROUNDS = {"one call": 7, "others": 3}  # the others may take a second a call
_TOKENS_A_PROGRAM = 65536
_CHUNKS = ((2048, 2048),)
"""Chunks of the paper's package: its best on an H100."""


def rows(clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields milliseconds and useful TFLOP/s of each way, and how many times as fast ours is.

    bfloat16, causal, batch 1. The long sequences come first: there the limits are.
    """
    ours = partial(attention, mesh=ring_mesh(1))
    for group, row, attend in _cases():
        measure = partial(_measure, row, ours, attend, _ROUNDS[group])
        yield measure_row(clock, _ROW_SECONDS[group], row, measure)


def programs() -> Iterator[jax.stages.Lowered]:
    """Yields the programs of all rows."""
    ours = partial(attention, mesh=ring_mesh(1))
    done = set()
    for _, row, attend in _cases():
        structs, case = array_structs(_shape(row), jnp.bfloat16), (_shape(row), row["direction"])
        # Our own program is that of several rows.
        for call in (attend,) if case in done else (ours, attend):
            yield jax.jit(_several(row, call)).lower(*structs)
        done.add(case)


def _cases() -> Iterator[tuple[str, dict[str, Any], Callable]]:
    """Yields a group, what a row of it measures, and the other way to compute attention."""
    lengths = (64,) if is_small() else (65536, 16384, 4096)
    shapes = ((2, 16),) if is_small() else ((16, 64), (8, 128))
    mesh = ring_mesh(1)
    chunks = ((32, 32),) if is_small() else _CHUNKS
    others = {"plain kernel": partial(attention, mesh=mesh, kernel="xla")}
    others |= peers(mesh, chunks, jnp.bfloat16)
    groups = {"one call": {"cuDNN, one call": one_fused_call}, "others": others}
    for group, ways in groups.items():
        for case in product(lengths, shapes, DIRECTIONS, ways):
            tokens, (heads, head_dim), direction, name = case
            row = {"heads": heads, "head_dim": head_dim, "tokens": tokens}
            yield group, row | {"direction": direction, "name": name}, ways[name]


def _shape(row: dict[str, Any]) -> tuple[int, ...]:
    return 1, row["tokens"], row["heads"], row["head_dim"]


def _repeats(row: dict[str, Any]) -> int:
    """Returns how many times a program computes attention."""
    return 2 if is_small() else max(1, _TOKENS_A_PROGRAM // row["tokens"])


def _several(row: dict[str, Any], attend: Callable) -> Callable:
    return repeated(directed(attend, row["direction"]), _repeats(row))


def _measure(row: dict[str, Any], ours: Callable, attend: Callable, rounds: int) -> dict[str, Any]:
    """Times ours and another way in turn."""
    arrays = random_arrays(_shape(row), jnp.bfloat16)
    calls = {
        name: compiled(_several(row, call), *arrays)
        for name, call in {"ours": ours, "other": attend}.items()
    }
    timings = time_in_turn(calls, rounds=rounds).divided_by(_repeats(row))
    flops = useful_flops(row["tokens"], row["heads"], row["head_dim"], row["direction"])
    return timings.row("other") | {
        "teraflops": flops / timings.median("other") / 1e12,
        "ours_ms": 1e3 * timings.median("ours"),
        "ours_teraflops": flops / timings.median("ours") / 1e12,
        "ours_is_times_as_fast": timings.ratio("other", "ours"),
    }
