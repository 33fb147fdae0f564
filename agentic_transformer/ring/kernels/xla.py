"""Defines the kernel for any platform in plain JAX: the reference's formulas, chunk by chunk.

It runs where no fused kernel does. Matrix units want large products, so its chunks are large.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from agentic_transformer.ring.kernels.blocks import (
    BlockSchedule,
    BlockSlicer,
    Chunks,
    check_chunks,
    for_each_block,
)
from agentic_transformer.ring.kernels.reference import (
    ReferenceKernel,
    SoftmaxState,
    block_backward,
    block_forward,
)
from agentic_transformer.ring.kernels.rows import mask_fields_of_rows, reshape_like, to_rows
from agentic_transformer.ring.masks import KeyPositions, Mask, QueryIntervals


@dataclass(frozen=True)
class XLAKernel(ReferenceKernel):
    """Computes attention by chunks; init, finish and the residual are the reference's.

    Attributes:
        chunks: sizes. A chunk of scores takes at most 64 MiB, of which about a dozen may be held.
            No speed was measured.
    """

    chunks: Chunks = Chunks(512, 512, whole=512, rows=64)

    def __post_init__(self) -> None:
        check_chunks(self.chunks)

    def pack(self, array: Array) -> Array:
        """Pads halves so that they divide into chunks."""
        return self.chunks.pad(array)

    def unpack(self, array: Array, tokens: int) -> Array:
        """Drops the padding."""
        return self.chunks.unpad(array, tokens)

    def forward(self, carry, query, key, value, mask: Mask) -> SoftmaxState:
        """Continues the softmax with a block of keys."""
        whole = key.shape[2] <= self.chunks.whole
        chunks = self.chunks.fitted(query, key)
        attend = block_forward if whole else partial(_chunked_forward, chunks)
        rows, fields = (
            to_rows((carry, query, key, value), key),
            mask_fields_of_rows(mask, query, key),
        )
        return reshape_like(attend(*rows, *fields), carry)

    def backward(self, residual, dquery, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery, and returns this block's dkey and dvalue."""
        whole = key.shape[2] <= self.chunks.whole
        chunks = self.chunks.fitted(query, key)
        differentiate = block_backward if whole else partial(_chunked_backward, chunks)
        rows = to_rows((residual, query, key, value), key)
        gradients = differentiate(*rows, *mask_fields_of_rows(mask, query, key))
        more, *gradients = reshape_like(gradients, (query, key, value))
        return dquery + more, *gradients


def _chunked_forward(
    chunks: Chunks,
    state: SoftmaxState,
    query: Array,
    key: Array,
    value: Array,
    queries: QueryIntervals,
    keys: KeyPositions,
) -> SoftmaxState:
    """Computes `block_forward` of rows by chunks; chunks of queries are the outer loop."""
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)

    def query_chunk(group: Array, index: Array, schedule: BlockSchedule, state: Any) -> Any:
        our_query = query_slicer.take(query, group, index)
        our_fields = query_slicer.mask_fields(queries, group, index)

        def visit(key_index: Array, so_far: SoftmaxState, *, masked: bool) -> SoftmaxState:
            theirs = (key_slicer.take(array, group, key_index) for array in (key, value))
            fields = key_slicer.mask_fields(keys, group, key_index)
            return block_forward(so_far, our_query, *theirs, our_fields, fields, masked=masked)

        so_far = jax.tree.map(lambda array: query_slicer.take(array, group, index), state)
        so_far = schedule.run_full(partial(visit, masked=False), so_far)
        so_far = schedule.run_partial(partial(visit, masked=True), so_far)
        return jax.tree.map(
            lambda array, part: query_slicer.put(array, part, group, index), state, so_far
        )

    slicers = (query_slicer, key_slicer)
    return for_each_block(slicers, queries, keys, query.shape[0], query_chunk, state)


def _chunked_backward(
    chunks: Chunks,
    residual: tuple[Array, Array, Array],
    query: Array,
    key: Array,
    value: Array,
    queries: QueryIntervals,
    keys: KeyPositions,
) -> tuple[Array, Array, Array]:
    """Computes `block_backward` of rows by chunks; chunks of keys are the outer loop."""
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)

    def key_chunk(group: Array, index: Array, schedule: BlockSchedule, totals: Any) -> Any:
        ours = [key_slicer.take(array, group, index) for array in (key, value)]
        our_fields = key_slicer.mask_fields(keys, group, index)

        def visit(query_index: Array, so_far: tuple, *, masked: bool) -> tuple:
            dquery, *sums = so_far
            their_query, *theirs = (
                query_slicer.take(array, group, query_index) for array in (query, *residual)
            )
            fields = query_slicer.mask_fields(queries, group, query_index)
            more, *parts = block_backward(
                theirs, their_query, *ours, fields, our_fields, masked=masked
            )
            more += query_slicer.take(dquery, group, query_index)
            sums = (total + part for total, part in zip(sums, parts, strict=True))
            return query_slicer.put(dquery, more, group, query_index), *sums

        dquery, *totals = totals
        zero = jnp.zeros_like(ours[0], jnp.float32)
        so_far = schedule.run_full(partial(visit, masked=False), (dquery, zero, zero))
        dquery, *sums = schedule.run_partial(partial(visit, masked=True), so_far)
        return dquery, *(
            key_slicer.put(total, part, group, index)
            for total, part in zip(totals, sums, strict=True)
        )

    start = tuple(jnp.zeros_like(array, jnp.float32) for array in (query, key, value))
    slicers = (key_slicer, query_slicer)
    return for_each_block(slicers, keys, queries, query.shape[0], key_chunk, start)
