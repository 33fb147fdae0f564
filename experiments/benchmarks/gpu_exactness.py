"""Measures errors of attention against float64, by dtype and precision (suite `gpu`).

The ring is simulated on one device: `jax.vmap` with a named axis runs the program of every device
of a ring, permutes included, one beside the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.ring import from_layout, ring_attention_shard, to_layout
from experiments.benchmarks.attention_passes import directed
from experiments.benchmarks.gpu_attention_calls import (
    array_structs,
    fused_kernel,
    one_fused_call,
    random_arrays,
)
from experiments.benchmarks.gpu_timing import Clock, is_small, measure_row

_HEADS, _HEAD_DIM = 2, 64
_ROW_SECONDS = 10
_NAMES = ("output", "dquery", "dkey", "dvalue")


def rows(clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields relative rms errors of the output and of each gradient.

    By dtype and precision, of one fused call and of rings of 1, 2 and 8 devices.
    """
    for dtype, precision in _cases():
        arrays = random_arrays(_shape(), jnp.dtype(dtype))
        expected = exact_attention(*arrays)
        errors: dict[str, list[float]] = {}
        for way, attend in _ways(dtype, precision).items():
            row = {"dtype": dtype, "precision": precision, "way": way, "tokens": _shape()[1]}
            yield measure_row(
                clock, _ROW_SECONDS, row, partial(_measure, errors, way, attend, arrays, expected)
            )


def programs() -> Iterator[jax.stages.Lowered]:
    """Yields the programs of all rows."""
    for dtype, precision in _cases():
        for attend in _ways(dtype, precision).values():
            yield jax.jit(attend).lower(*array_structs(_shape(), jnp.dtype(dtype)))


def _shape() -> tuple[int, ...]:
    return 1, 64 if is_small() else 4096, _HEADS, _HEAD_DIM


def _cases() -> list[tuple[str, str]]:
    """Returns the dtypes and precisions to measure, those that tell most first."""
    cases = [("bfloat16", "highest"), ("float32", "highest")]
    if not is_small():  # a CPU has one precision, and products of float16 are slow there
        cases += [("float16", "highest"), ("float32", "default")]
    return cases


def _ways(dtype: str, precision: str) -> dict[str, Callable]:
    """Returns functions of query, key, value and the output's cotangent, by name."""
    ways: dict[str, Callable] = {"one fused call": directed(one_fused_call, "both")}
    if dtype == "float32":  # no library has fused attention for it
        ways = {}
    for size in (2,) if is_small() else (1, 2, 8):
        ways[f"ring of {size}"] = partial(_on_ring, size, precision)
    return ways


def _measure(
    errors: dict[str, list[float]],
    way: str,
    attend: Callable,
    arrays: list[jax.Array],
    expected: list[np.ndarray],
) -> dict[str, Any]:
    found = jax.jit(attend)(*arrays)
    errors[way] = [relative_rms(*pair) for pair in zip(found, expected, strict=True)]
    row: dict[str, Any] = {
        name: f"{error:.2e}" for name, error in zip(_NAMES, errors[way], strict=True)
    }
    if one := errors.get("one fused call"):
        output, *gradients = (ours / theirs for ours, theirs in zip(errors[way], one, strict=True))
        row |= {"output_of_one_call": output, "gradients_of_one_call": max(gradients)}
    return row


def _on_ring(size: int, precision: str, *arrays: jax.Array) -> list[jax.Array]:
    """Computes what a ring of devices computes, on one device.

    16-bit inputs use the fused kernel, others the fastest.

    Args:
        size: devices of the ring.
        precision: of float32 products.
        *arrays: query, key, value and the output's cotangent, (batch, sequence, heads, head_dim).

    Returns:
        The output and the gradients of query, key and value.
    """
    query = arrays[0]
    kernel = fused_kernel(query.dtype, _HEAD_DIM) if query.dtype.itemsize == 2 else None

    def split(x: jax.Array) -> jax.Array:  # (batch, sequence, ...) -> (size, batch, tokens, ...)
        x = to_layout(x, size, "zigzag")
        return jnp.moveaxis(x.reshape(x.shape[0], size, -1, *x.shape[2:]), 1, 0)

    def join(shares: jax.Array) -> jax.Array:
        return from_layout(jnp.moveaxis(shares, 0, 1).reshape(query.shape), size, "zigzag")

    attend = partial(ring_attention_shard, axis="ring", kernel=kernel, precision=precision)
    of_device = jax.vmap(directed(attend, "both"), axis_name="ring", axis_size=size)
    return [join(shares) for shares in of_device(*map(split, arrays))]


def exact_attention(*arrays: jax.Array) -> list[np.ndarray]:
    """Computes causal attention and its gradients in float64, of the inputs as they are rounded.

        S = Q K^T / sqrt(head_dim),  P = softmax S,  O = P V,  dV = P^T dO,
        dS = P (dO V^T - rowsum(O dO)) / sqrt(head_dim),  dQ = dS K,  dK = dS^T Q

    Args:
        *arrays: query, key, value and the output's cotangent, (1, sequence, heads, head_dim).

    Returns:
        The output and the gradients of query, key and value, of the same shape.
    """
    by_head = zip(*(np.moveaxis(np.asarray(x, np.float64)[0], 1, 0) for x in arrays), strict=True)
    results = [_exact_head(*head) for head in by_head]
    return [np.stack(parts, axis=1)[None] for parts in zip(*results, strict=True)]


def _exact_head(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, ...]:
    scale = query.shape[-1] ** -0.5
    scores = np.where(np.tri(len(query), dtype=bool), query @ key.T * scale, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = weights @ value
    delta = (out * cotangent).sum(axis=-1, keepdims=True)
    dscores = weights * (cotangent @ value.T - delta) * scale
    return out, dscores @ key, dscores.T @ query, weights.T @ cotangent


def relative_rms(found: jax.Array, expected: np.ndarray) -> float:
    """Returns the rms of the error over the rms of what was expected."""
    error = np.asarray(found, np.float64) - expected
    return float(np.sqrt(np.mean(error**2) / np.mean(expected**2)))
