"""Defines the kernel for CPUs: plain JAX, written and measured for XLA's CPU backend.

What makes it fast there:
- Chunks of 256 x 256 scores (256 KiB) stay in a core's cache beside their operands.
- Exponentials are to base 2, by a polynomial: exp(s) = 2^(s log2 e).
- Where |q| |k| (scaled) is at most SAFE_EXPONENT, exponentials cannot overflow, so no running
  maximum is computed.
- The left operand of a product is never transposed; that would cost up to three quarters of the
  speed. So dquery is summed as (head_dim, tokens) and transposed once at the end.
- The two halves of a block (see rows.py) are padded to multiples of 16 tokens, once a pass.
- In a long sequence one key head after another goes around the ring.

Blocks of at most `chunks.whole` keys are not cut, and use XLA's own exponentials.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.kernels.blocks import (
    BlockSchedule,
    BlockSlicer,
    Chunks,
    check_chunks,
    for_each_block,
)
from agentic_transformer.ring.kernels.cpu_block import (
    LOG2_E,
    SAFE_EXPONENT,
    SoftmaxState,
    block_backward,
    block_forward,
    l2_norm,
)
from agentic_transformer.ring.kernels.rows import mask_fields_of_rows, reshape_like, to_rows
from agentic_transformer.ring.masks import (
    MASK_VALUE,
    KeyPositions,
    Mask,
    MaskKind,
    QueryIntervals,
)
from agentic_transformer.ring.nonfinite import zero_nonfinite
from agentic_transformer.ring.validation import check_whole

LN_2 = 0.6931471805599453

SAFE_EXPONENT_FLOAT16 = 8.0
"""`SAFE_EXPONENT` of weights that are rounded to float16.

Normal numbers of float16 reach from 2^-14 to below 2^16; smaller ones lose digits. Weights from
2^-8 to 2^8 are normal, and stay normal where the maximum so far lowers them by up to 2^6.
"""

# How the block functions compute a block that is not cut into chunks.
_UNCUT = {"high_precision": True, "in_cache": False}


@dataclass(frozen=True)
class CPUKernel(Kernel):
    """Computes attention by chunks that stay in a core's cache.

    Attributes:
        chunks: sizes; larger and smaller ones than the default took up to a fifth longer.
        min_tokens_per_head_pass: blocks of at least this many tokens send one key head after
            another around the ring. With smaller blocks the devices would wait for each other too
            often.
    """

    chunks: Chunks = Chunks(256, 256, whole=256)
    min_tokens_per_head_pass: int = 4096

    def __post_init__(self) -> None:
        check_chunks(self.chunks)
        check_whole("min_tokens_per_head_pass", self.min_tokens_per_head_pass, 0)

    def pack(self, array: Array) -> Array:
        """Pads the two halves of a block (see rows.py) so that they divide into chunks."""
        return self.chunks.pad(array)

    def unpack(self, array: Array, tokens: int) -> Array:
        """Drops the padding."""
        return self.chunks.unpad(array, tokens)

    def init(self, query: Array, key: Array) -> SoftmaxState:
        """Returns the softmax over no keys, in rows."""
        query = to_rows(query, key)
        zero = jnp.zeros_like(query[..., 0], jnp.float32)
        return SoftmaxState(zero + MASK_VALUE, zero, jnp.zeros_like(query, jnp.float32))

    def forward(self, carry, query, key, value, mask: Mask) -> SoftmaxState:
        """Continues the softmax with a block of keys."""
        rows = to_rows((query, key, value), key)
        fields = mask_fields_of_rows(mask, query, key)
        if key.shape[2] <= self.chunks.whole:
            return block_forward(carry, *rows, *fields, masked=_is_masked(mask), **_UNCUT)
        return chunked_forward(self.chunks.fitted(query, key), carry, *rows, *fields)

    def finish(self, carry: SoftmaxState, query: Array) -> tuple[Array, Array]:
        """Returns numerator / denominator, and lse = max * ln(2) + ln(denominator)."""
        denominator = jnp.where(carry.denominator > 0, carry.denominator, 1)
        lse = carry.max * LN_2 + jnp.log(carry.denominator)
        out = carry.numerator / denominator[..., None]
        return out.reshape(query.shape), lse.reshape(query.shape[:-1])

    def prepare_backward(self, key, out, lse, cotangent) -> tuple[Array, ...]:
        """Returns (cotangent, lse, delta) in rows."""
        return to_rows(super().prepare_backward(key, out, lse, cotangent), key)

    def init_backward(self, query: Array, key: Array) -> Array:
        """Returns zeros for dquery, transposed: (rows, head_dim, tokens)."""
        return jnp.zeros_like(to_rows(query, key).mT, jnp.float32)

    def backward(self, residual, dquery: Array, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery, and returns this block's dkey and dvalue."""
        query_rows, key_rows, value_rows = to_rows((query, key, value), key)
        rows = residual, query_rows, key_rows, value_rows
        fields = mask_fields_of_rows(mask, query, key)
        if key.shape[2] <= self.chunks.whole:
            transposed_key = zero_nonfinite(key_rows).mT
            dquery_part, *gradients = block_backward(
                *rows, transposed_key, *fields, masked=_is_masked(mask), **_UNCUT
            )
            dquery += dquery_part
        else:
            chunks = self.chunks.fitted(query, key)
            dquery, *gradients = chunked_backward(chunks, dquery, *rows, *fields)
        return dquery, *reshape_like(gradients, [key, value])

    def finish_backward(self, dquery: Array, query: Array) -> Array:
        """Returns dquery, (batch, heads, queries, head_dim)."""
        return dquery.mT.reshape(query.shape)

    def map_heads(
        self, ring_pass: Callable, arrays: tuple[Array, ...], segment: Array | None
    ) -> Any:
        """Runs `ring_pass` once for each (batch, key head), or once for all of them.

        It runs once for each if blocks have at least `min_tokens_per_head_pass` tokens and chunks
        have one row.
        """
        batch, key_heads, tokens = arrays[1].shape[:3]
        if self.chunks.rows > 1 or tokens < self.min_tokens_per_head_pass:
            return ring_pass(*arrays, segment)
        # (batch, heads, ...) -> (batch * key_heads, 1, heads per key head, ...)
        rows = [
            array.reshape(batch * key_heads, 1, array.shape[1] // key_heads, *array.shape[2:])
            for array in arrays
        ]
        segments = None if segment is None else jnp.repeat(segment, key_heads, axis=0)[:, None]
        results = lax.map(lambda row: ring_pass(*row[0], row[1]), (rows, segments))
        return jax.tree.map(lambda array: array.reshape(batch, -1, *array.shape[3:]), results)


def _is_masked(mask: Mask) -> bool:
    """Returns whether an unpadded block needs a mask."""
    return mask.kind is not MaskKind.FULL or mask.queries.segment is not None


def chunked_forward(
    chunks: Chunks,
    state: SoftmaxState,
    query: Array,
    key: Array,
    value: Array,
    queries: QueryIntervals,
    keys: KeyPositions,
) -> SoftmaxState:
    """Continues a softmax with a large block of keys, chunk by chunk.

    Arrays are rows, (rows, tokens, ...). Chunks of queries are the outer loop.

    By Cauchy-Schwarz |q.k| <= |q||k|. Where this bound is at most SAFE_EXPONENT, no running maximum
    is needed. Only keys of full chunks enter the bound: a hidden key must not change the rounding
    of an output.
    """
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)
    query_norms = l2_norm(query)
    # The largest norm of each chunk of keys, (rows, chunks)
    key_norms = l2_norm(key).reshape(key.shape[0], -1, chunks.keys).max(axis=-1)
    scale = query.shape[-1] ** -0.5 * LOG2_E
    safe = SAFE_EXPONENT_FLOAT16 if value.dtype == jnp.float16 else SAFE_EXPONENT

    def forward_query_chunk(
        row_group: Array, index: Array, schedule: BlockSchedule, state: SoftmaxState
    ) -> SoftmaxState:
        query_chunk = query_slicer.take(query, row_group, index)
        query_fields = query_slicer.mask_fields(queries, row_group, index)

        def visit(key_index: Array, so_far: SoftmaxState, **how: Any) -> SoftmaxState:
            key_chunk, value_chunk = (
                key_slicer.take(array, row_group, key_index) for array in (key, value)
            )
            key_fields = key_slicer.mask_fields(keys, row_group, key_index)
            return block_forward(
                so_far, query_chunk, key_chunk, value_chunk, query_fields, key_fields, **how
            )

        so_far = jax.tree.map(lambda array: query_slicer.take(array, row_group, index), state)
        query_chunk_norms = query_slicer.take(query_norms, row_group, index)
        # norms of all key chunks of this row group
        key_chunk_norms = BlockSlicer(chunks.rows, key_norms.shape[1]).take(key_norms, row_group, 0)
        largest_norm = _largest_full(schedule, key_chunk_norms)[..., None]
        needs_rescale = ~(query_chunk_norms * largest_norm * scale <= safe)  # also where it is NaN
        so_far = _run_full(schedule, visit, so_far, needs_rescale)
        so_far = _run_partial(schedule, visit, so_far)
        return jax.tree.map(
            lambda array, part: query_slicer.put(array, part, row_group, index), state, so_far
        )

    slicers = (query_slicer, key_slicer)
    return for_each_block(slicers, queries, keys, query.shape[0], forward_query_chunk, state)


def chunked_backward(
    chunks: Chunks,
    dquery: Array,
    residual: tuple[Array, Array, Array],
    query: Array,
    key: Array,
    value: Array,
    queries: QueryIntervals,
    keys: KeyPositions,
) -> tuple[Array, Array, Array]:
    """Returns dquery with this block's part added; dkey and dvalue of this block alone.

    Arrays are rows, (rows, tokens, ...), dquery (rows, head_dim, tokens). Chunks of keys are the
    outer loop; dquery is updated in place.
    """
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)

    def backward_key_chunk(
        row_group: Array, index: Array, schedule: BlockSchedule, gradients: tuple
    ) -> tuple[Array, Array, Array]:
        dquery, dkey, dvalue = gradients
        key_chunk, value_chunk = (
            key_slicer.take(array, row_group, index) for array in (key, value)
        )
        key_fields = key_slicer.mask_fields(keys, row_group, index)
        transposed_key = zero_nonfinite(key_chunk).mT

        def visit(query_index: Array, so_far: tuple, **how: bool) -> tuple:
            dquery, dkey_chunk, dvalue_chunk = so_far
            query_chunk, *residual_chunk = (
                query_slicer.take(array, row_group, query_index) for array in (query, *residual)
            )
            query_fields = query_slicer.mask_fields(queries, row_group, query_index)
            dquery_part, dkey_part, dvalue_part = block_backward(
                residual_chunk,
                query_chunk,
                key_chunk,
                value_chunk,
                transposed_key,
                query_fields,
                key_fields,
                **how,
            )
            start = (row_group * query_slicer.rows, jnp.int32(0), query_index * query_slicer.size)
            dquery_chunk = dquery_part + lax.dynamic_slice(dquery, start, dquery_part.shape)
            dquery = lax.dynamic_update_slice(dquery, dquery_chunk, start)
            return dquery, dkey_chunk + dkey_part, dvalue_chunk + dvalue_part

        zero = jnp.zeros_like(key_chunk, jnp.float32)
        so_far = (dquery, zero, zero)
        so_far = schedule.run_full(partial(visit, masked=False, high_precision=False), so_far)
        dquery, dkey_chunk, dvalue_chunk = _run_partial(schedule, visit, so_far)
        dkey = key_slicer.put(dkey, dkey_chunk, row_group, index)
        return dquery, dkey, key_slicer.put(dvalue, dvalue_chunk, row_group, index)

    zero = jnp.zeros_like(key, jnp.float32)
    slicers = (key_slicer, query_slicer)
    gradients = (dquery, zero, zero)
    return for_each_block(slicers, keys, queries, query.shape[0], backward_key_chunk, gradients)


def _run_full(
    schedule: BlockSchedule, visit: Callable, state: SoftmaxState, needs_rescale: Array
) -> SoftmaxState:
    """Visits the full chunks, with running maxima if any query of this chunk needs them.

    Queries that need none use max(maximum so far, 0) as their fixed offset.
    """
    new_max = jnp.where(needs_rescale, state.max, jnp.maximum(state.max, 0))
    visit = partial(visit, masked=False, high_precision=False, needs_rescale=needs_rescale)
    return schedule.run_full(visit, state.relative_to(new_max))


def _run_partial(schedule: BlockSchedule, visit: Callable, carry: Any) -> Any:
    """Visits partly visible chunks.

    First those at normal precision, then those in high precision.
    """
    plain, precise = (partial(visit, masked=True, high_precision=flag) for flag in (False, True))
    carry = schedule.run(schedule.full_end, schedule.plain_end, plain, carry)
    return schedule.run(schedule.plain_end, schedule.non_empty_end, precise, carry)


def _largest_full(schedule: BlockSchedule, norms: Array) -> Array:
    """Returns the largest of norms (rows, chunks) over full chunks; infinity if none is full."""
    is_full = jnp.arange(schedule.order.size) < schedule.full_end
    norms = jnp.where(is_full, norms[:, schedule.order], 0).max(axis=1)
    return jnp.where(schedule.full_end > 0, norms, jnp.inf)
