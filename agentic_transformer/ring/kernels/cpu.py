"""Defines the kernel for CPUs: plain JAX, written and measured for XLA's CPU backend.

What makes it fast there:
- Chunks of 256 x 256 scores (256 KiB) stay in a core's cache beside their operands.
- Exponentials are to base 2, by a polynomial: exp(s) = 2^(s log2 e).
- Where |q| |k| bounds the scores, no running maximum is looked for (Cauchy-Schwarz).
- No product has a transposed operand, which would cost up to three quarters of the speed: dquery is
  summed transposed, and transposed once at the end.
- Halves are padded to multiples of 16 tokens, once a pass.
- In a long sequence one key head after another goes around the ring.
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

LN_2 = 0.6931471805599453

SAFE_EXPONENT_FLOAT16 = 8.0
"""`SAFE_EXPONENT` of weights that are rounded to float16, whose powers end at 2^-14 and 2^15."""


@dataclass(frozen=True)
class CPUKernel(Kernel):
    """Computes attention by chunks that stay in a core's cache.

    Attributes:
        chunks: sizes; larger and smaller ones than the default took up to a fifth longer.
        sequential_heads: from so many tokens in a block on, key heads go around the ring one after
            another. Below, the devices would wait for each other too often.
    """

    chunks: Chunks = Chunks(256, 256, whole=256)
    sequential_heads: int = 4096

    def __post_init__(self) -> None:
        check_chunks(self.chunks)

    def pack(self, array: Array) -> Array:
        """Pads halves so that they divide into chunks."""
        return self.chunks.pad(array)

    def unpack(self, array: Array, tokens: int) -> Array:
        """Drops the padding."""
        return self.chunks.unpad(array, tokens)

    def init(self, query: Array, key: Array) -> SoftmaxState:
        """Returns the softmax over no keys, in rows."""
        query = to_rows(query, key)
        zero = jnp.zeros(query.shape[:-1], jnp.float32)
        return SoftmaxState(zero + MASK_VALUE, zero, jnp.zeros(query.shape, jnp.float32))

    def forward(self, carry, query, key, value, mask: Mask) -> SoftmaxState:
        """Continues the softmax with a block of keys."""
        if key.shape[2] <= self.chunks.whole:
            how = {"masked": _is_masked(mask), "high_precision": True, "in_cache": False}
            attend = partial(block_forward, **how)
        else:
            attend = partial(chunked_forward, self.chunks)
        rows = to_rows((query, key, value), key)
        return attend(carry, *rows, *mask_fields_of_rows(mask, query, key))

    def finish(self, carry: SoftmaxState, query: Array) -> tuple[Array, Array]:
        """Returns numerator / denominator, and lse = max ln 2 + ln denominator."""
        denominator = jnp.where(carry.denominator > 0, carry.denominator, 1)
        lse = carry.max * LN_2 + jnp.log(carry.denominator)
        out = carry.numerator / denominator[..., None]
        return out.reshape(query.shape), lse.reshape(query.shape[:-1])

    def prepare_backward(self, key, out, lse, cotangent) -> tuple[Array, ...]:
        """Returns (cotangent, lse, delta) in rows."""
        return to_rows(super().prepare_backward(key, out, lse, cotangent), key)

    def init_backward(self, query: Array, key: Array) -> Array:
        """Returns zeros for dquery, transposed: (rows, head_dim, tokens)."""
        return jnp.zeros(to_rows(query, key).mT.shape, jnp.float32)

    def backward(self, residual, dquery: Array, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery, and returns this block's dkey and dvalue."""
        rows = residual, *to_rows((query, key, value), key)
        fields = mask_fields_of_rows(mask, query, key)
        if key.shape[2] <= self.chunks.whole:
            transposed_key = zero_nonfinite(rows[2]).mT
            how = {"masked": _is_masked(mask), "high_precision": True, "in_cache": False}
            more, *gradients = block_backward(*rows, transposed_key, *fields, **how)
            dquery += more
        else:
            dquery, *gradients = chunked_backward(self.chunks, dquery, *rows, *fields)
        return dquery, *reshape_like(gradients, [key, value])

    def finish_backward(self, dquery: Array, query: Array) -> Array:
        """Returns dquery, (batch, heads, queries, head_dim)."""
        return dquery.mT.reshape(query.shape)

    def map_heads(
        self, ring_pass: Callable, arrays: tuple[Array, ...], segment: Array | None
    ) -> Any:
        """Applies a pass around the ring to one (batch, key head) after another if it is long."""
        batch, key_heads, tokens = arrays[1].shape[:3]
        if self.chunks.rows > 1 or tokens < self.sequential_heads:
            return ring_pass(*arrays, segment)
        # (batch, heads, ...) -> (batch * key_heads, 1, heads of a group, ...)
        rows = [
            array.reshape(batch * key_heads, 1, array.shape[1] // key_heads, *array.shape[2:])
            for array in arrays
        ]
        segments = None if segment is None else jnp.repeat(segment, key_heads, axis=0)[:, None]
        results = lax.map(lambda row: ring_pass(*row[0], row[1]), (rows, segments))
        return jax.tree.map(lambda array: array.reshape(batch, -1, *array.shape[3:]), results)


def _is_masked(mask: Mask) -> bool:
    """Returns whether some query may not see some key of a block without padding."""
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

    By Cauchy-Schwarz |q.k| <= |q||k|: where that is safe, no running maximum is needed. Only keys
    of full chunks count: a hidden key must not change the rounding of an output.
    """
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)
    query_norms = l2_norm(query)
    # The largest norm of each chunk of keys, (rows, chunks).
    key_norms = l2_norm(key).reshape(key.shape[0], -1, chunks.keys).max(axis=-1)
    scale = query.shape[-1] ** -0.5 * LOG2_E
    safe = SAFE_EXPONENT_FLOAT16 if value.dtype == jnp.float16 else SAFE_EXPONENT

    def query_chunk(
        group: Array, index: Array, schedule: BlockSchedule, state: SoftmaxState
    ) -> SoftmaxState:
        ours = query_slicer.take(query, group, index)
        our_fields = query_slicer.mask_fields(queries, group, index)

        def visit(key_index: Array, so_far: SoftmaxState, **how: Any) -> SoftmaxState:
            theirs = (key_slicer.take(array, group, key_index) for array in (key, value))
            fields = key_slicer.mask_fields(keys, group, key_index)
            return block_forward(so_far, ours, *theirs, our_fields, fields, **how)

        so_far = jax.tree.map(lambda array: query_slicer.take(array, group, index), state)
        our_norms = query_slicer.take(query_norms, group, index)
        their_norms = BlockSlicer(chunks.rows, key_norms.shape[1]).take(key_norms, group, 0)
        bound = our_norms * _largest_full(schedule, their_norms)[..., None] * scale
        needs_rescale = ~(bound <= safe)  # also where the bound is NaN
        so_far = _run_full(schedule, visit, so_far, needs_rescale)
        so_far = _run_partial(schedule, visit, so_far)
        return jax.tree.map(
            lambda array, part: query_slicer.put(array, part, group, index), state, so_far
        )

    slicers = (query_slicer, key_slicer)
    return for_each_block(slicers, queries, keys, query.shape[0], query_chunk, state)


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
    """Returns (dquery, dkey, dvalue) of a large block: dquery continued, dkey and dvalue anew.

    Arrays are rows, (rows, tokens, ...), dquery (rows, head_dim, tokens). Chunks of keys are the
    outer loop; dquery is updated in place.
    """
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)

    def key_chunk(
        group: Array, index: Array, schedule: BlockSchedule, gradients: tuple
    ) -> tuple[Array, Array, Array]:
        dquery, *totals = gradients
        our_key, our_value = (key_slicer.take(array, group, index) for array in (key, value))
        our_fields = key_slicer.mask_fields(keys, group, index)
        transposed_key = zero_nonfinite(our_key).mT

        def visit(query_index: Array, so_far: tuple, **how: bool) -> tuple:
            dquery, *sums = so_far
            their_query, *theirs = (
                query_slicer.take(array, group, query_index) for array in (query, *residual)
            )
            fields = query_slicer.mask_fields(queries, group, query_index)
            more, *parts = block_backward(
                theirs, their_query, our_key, our_value, transposed_key, fields, our_fields, **how
            )
            start = (group * query_slicer.rows, 0, query_index * query_slicer.size)
            more += lax.dynamic_slice(dquery, start, more.shape)
            sums = (total + part for total, part in zip(sums, parts, strict=True))
            return lax.dynamic_update_slice(dquery, more, start), *sums

        zero = jnp.zeros(our_key.shape, jnp.float32)
        so_far = (dquery, zero, zero)
        so_far = schedule.run_full(partial(visit, masked=False, high_precision=False), so_far)
        dquery, *sums = _run_partial(schedule, visit, so_far)
        return dquery, *(
            key_slicer.put(total, part, group, index)
            for total, part in zip(totals, sums, strict=True)
        )

    zero = jnp.zeros(key.shape, jnp.float32)
    slicers = (key_slicer, query_slicer)
    return for_each_block(slicers, keys, queries, query.shape[0], key_chunk, (dquery, zero, zero))


def _run_full(
    schedule: BlockSchedule, visit: Callable, state: SoftmaxState, needs_rescale: Array
) -> SoftmaxState:
    """Visits the full chunks: one of two loops, the other is empty.

    Scores of queries that need no rescaling are relative to their maximum so far, or to 0.
    """
    visit = partial(visit, masked=False, high_precision=False)
    new_max = jnp.where(needs_rescale, state.max, jnp.maximum(state.max, 0))
    state, some_need = state.relative_to(new_max), needs_rescale.any()
    fast_end = jnp.where(some_need, 0, schedule.full_end)
    slow_end = jnp.where(some_need, schedule.full_end, 0)
    state = schedule.run(0, fast_end, partial(visit, needs_rescale=False), state)
    return schedule.run(0, slow_end, partial(visit, needs_rescale=needs_rescale), state)


def _run_partial(schedule: BlockSchedule, visit: Callable, carry: Any) -> Any:
    """Visits the partly visible chunks, those that need it in high precision."""
    plain, precise = (partial(visit, masked=True, high_precision=flag) for flag in (False, True))
    carry = schedule.run(schedule.full_end, schedule.plain_end, plain, carry)
    return schedule.run(schedule.plain_end, schedule.non_empty_end, precise, carry)


def _largest_full(schedule: BlockSchedule, norms: Array) -> Array:
    """Returns the largest of norms (rows, chunks) over the full chunks; infinity without any."""
    is_full = jnp.arange(schedule.order.size) < schedule.full_end
    norms = jnp.where(is_full, norms[:, schedule.order], 0).max(axis=1)
    return jnp.where(schedule.full_end > 0, norms, jnp.inf)
