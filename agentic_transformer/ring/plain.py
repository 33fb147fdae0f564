"""The block kernel in plain JAX, for any platform; measured and tuned on CPUs.

A large block is computed in chunks.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from agentic_transformer.ring.checks import check_flag, check_whole
from agentic_transformer.ring.chunked import Chunks, chunked_backward, chunked_forward
from agentic_transformer.ring.hidden import cleared
from agentic_transformer.ring.kernel import BlockKernel, Running
from agentic_transformer.ring.pair import attend, differentiate
from agentic_transformer.ring.visibility import Keys, Queries

CPU_CHUNKS = Chunks(256, 256, whole=256)
"""Scores of 256 KiB, which stay in a core's cache beside their operands: larger and smaller ones
took up to a fifth longer."""

ACCELERATOR_CHUNKS = Chunks(512, 512, whole=512, rows=64, on_cpu=False)
"""Scores of at most 64 MiB, of which a dozen may be held.

No speed was measured: matrix units want large products.
"""


def plain_kernel(platform: str, chunks: Chunks | None = None) -> BlockKernel:
    """The block kernel in plain JAX.

    Args:
        platform: that of the devices.
        chunks: the same on every device; None: `CPU_CHUNKS` on "cpu", `ACCELERATOR_CHUNKS`
            elsewhere.

    Raises:
        ValueError: the platform is no name, or a size of the chunks no whole number of at least 1.
    """
    if not isinstance(platform, str):
        raise ValueError(f"platform={platform!r} must be a name, such as 'cpu', 'gpu' or 'tpu'")
    if chunks is not None:
        if not isinstance(chunks, Chunks):
            raise ValueError(f"chunks={chunks!r} must be a Chunks, or None")
        for name in ("queries", "keys", "whole", "rows"):
            check_whole(f"chunks.{name}", getattr(chunks, name))
        check_flag("chunks.on_cpu", chunks.on_cpu)
    chunks = chunks or (CPU_CHUNKS if platform == "cpu" else ACCELERATOR_CHUNKS)
    return BlockKernel(
        *(partial(function, chunks) for function in (_forward, _backward, _padded, _one_row))
    )


def _padded(chunks: Chunks, half: int) -> int:
    """Half a block padded so that it divides into equal chunks: multiples of 16 tokens, as near the
    wanted size as may be.
    """
    if 2 * half <= chunks.whole:
        return half
    larger = max(chunks.queries, chunks.keys)
    parts, step = -(-half // larger), 16 * larger // min(chunks.queries, chunks.keys)
    return parts * step * -(-half // (step * parts))


def _one_row(chunks: Chunks, tokens: int) -> bool:
    """Rows of fewer tokens travel together: the devices would wait for each other too often."""
    return chunks.rows == 1 and tokens >= 4096


def _forward(
    chunks: Chunks,
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    running: Running,
) -> Running:
    if key.shape[2] <= chunks.whole:
        return attend(query, key, value, queries, keys, running, masked=True, careful=True)
    after = chunked_forward(chunks, *_rows((query, key, value, queries, keys, running)))
    return jax.tree.map(lambda rows, whole: rows.reshape(whole.shape), after, running)


def _backward(
    chunks: Chunks,
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    cotangent: Array,
    lse: Array,
    delta: Array,
    dquery: Array,
) -> tuple[Array, Array, Array]:
    arguments = (query, key, value, queries, keys, cotangent, lse, delta)
    if key.shape[2] <= chunks.whole:
        more, *rest = differentiate(
            *arguments, transposed=cleared(key).mT, masked=True, careful=True
        )
        return dquery + more, *rest
    gradients = chunked_backward(chunks, *_rows((*arguments, dquery)))
    return jax.tree.map(
        lambda rows, whole: rows.reshape(whole.shape), gradients, (dquery, key, value)
    )


def _rows(arguments: tuple) -> list:
    """Arrays (batch, heads, ...) and segments (batch, tokens) as rows, (batch * heads, ...)."""
    heads = arguments[0].shape[1]

    def rows(argument: Array | Running | Queries | Keys) -> Array | Running | Queries | Keys:
        if isinstance(argument, Queries | Keys):
            segment = argument.segment
            return argument._replace(
                segment=None if segment is None else jnp.repeat(segment, heads, axis=0)
            )
        return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), argument)

    return [rows(argument) for argument in arguments]
