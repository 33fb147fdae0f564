"""Times calls by the CPU time of all threads, which other load on the machine hardly changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_SIZE = 2048
_multiply = jax.jit(jnp.matmul)


def cpu_seconds(call: Callable, *arrays: Any) -> float:
    """Returns the CPU seconds of a call and of waiting for its result."""
    start = time.process_time()
    jax.block_until_ready(call(*arrays))
    return time.process_time() - start


def least_cpu_seconds(call: Callable[[], Any], calls: int = 20) -> float:
    """Returns the least CPU seconds of several calls after a first one, which may compile."""
    jax.block_until_ready(call())
    return min(cpu_seconds(call) for _ in range(calls))


def product_rate() -> float:
    """Returns the FLOP/s, by CPU time, of a product of 2048 x 2048 matrices in float32."""
    square = jnp.ones((_SIZE, _SIZE), jnp.float32)
    jax.block_until_ready(_multiply(square, square))
    return 2 * _SIZE**3 / cpu_seconds(_multiply, square, square)
