"""Times calls on an accelerator, in turn, and keeps to a suite's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_SAMPLE = 0.02
"""Seconds of a sample. Calls that take less are made several times in a row, as in a loop that
waits for the last alone: waiting for the device takes longer than small calls."""

_MOST_ROUNDS = 31


class Clock(NamedTuple):
    """Says how much of a part's time is left."""

    ends: float  # by time.monotonic, which all processes of a machine share

    def left(self) -> float:
        """Returns the seconds left."""
        return self.ends - time.monotonic()


class Timings(NamedTuple):
    """Holds seconds a call by its name, in the order of the rounds; every round has every call."""

    seconds: dict[str, list[float]]

    def row(self, name: str) -> dict[str, float]:
        """Returns milliseconds of a call for a table: the median, the least and the most."""
        milliseconds = [1e3 * value for value in self.seconds[name]]
        return {"ms": median(milliseconds), "low": min(milliseconds), "high": max(milliseconds)}

    def divided_by(self, count: int) -> Timings:
        """Returns seconds of one of `count` equal parts of each call."""
        return Timings({name: [x / count for x in xs] for name, xs in self.seconds.items()})

    def median(self, name: str) -> float:
        """Returns the median of the seconds of a call."""
        return median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """Returns the seconds of a call over those of another, the median over rounds."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return median(one / two for one, two in pairs)


def time_in_turn(calls: dict[str, Callable[[], Any]], rounds: int = 5) -> Timings:
    """Times calls in turn, round by round; the first two of each are not counted.

    Args:
        calls: what to call, by name. The result is waited for.
        rounds: the fewest rounds; an accelerator makes more, as long as they begin in a second.
    """
    repeats = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        repeats[name] = max(1, min(100, round(_SAMPLE / _seconds(call, 1))))
    timings = Timings({name: [] for name in calls})
    start, done = time.monotonic(), 0
    seconds = 0.0 if is_small() else 1.0
    while done < rounds or (done < _MOST_ROUNDS and time.monotonic() - start < seconds):
        for name, call in calls.items():
            timings.seconds[name].append(_seconds(call, repeats[name]))
        done += 1
    return timings


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def measure_row(
    clock: Clock, seconds: float, row: dict[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Returns a row with what was measured, or with a note that says why it was not.

    Args:
        clock: the part's time.
        seconds: the row is left out if less is left.
        row: what is measured.
        measure: returns the measures. It may run out of memory, or not be supported here.
    """
    if clock.left() < seconds:
        return row | {"note": "left out: no time left"}
    try:
        return row | measure()
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return row | {"note": f"{type(error).__name__}: {lines[0][:200]}"}


def compiled(function: Callable, *arrays: Any) -> Callable[[], Any]:
    """Returns a call of a function, compiled for these arrays."""
    program = jax.jit(function).lower(*arrays).compile()
    return lambda: program(*arrays)


def keep_programs(folder: str) -> None:
    """Keeps all programs that this process compiles; in a folder that the user chose, if any."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def is_small() -> bool:
    """Returns whether this is a CPU, where the suite only shows that it works."""
    return jax.default_backend() == "cpu"


def product_call() -> tuple[Callable[[], Any], float]:
    """Returns a product of square bfloat16 matrices, and its FLOPs."""
    size = 128 if is_small() else 8192
    # Random: a GPU multiplies ones a tenth faster, as they take less power.
    square = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    return compiled(jnp.matmul, square, square), 2.0 * size**3


def copy_call() -> tuple[Callable[[], Any], float]:
    """Returns a copy of an array in the device's memory, and the bytes that it reads and writes."""
    array = jnp.ones(2**16 if is_small() else 2**28, jnp.float32)
    return compiled(lambda x: x + 1, array), 2.0 * array.nbytes
