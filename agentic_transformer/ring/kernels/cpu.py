"""The kernel for CPUs: plain JAX, written and measured for XLA's CPU backend.

What makes it fast there:
- Chunks of 256 x 256 scores (256 KiB) stay in a core's cache beside their operands.
- Exponentials are to base 2, by a polynomial: exp(s) = 2^(s log2 e).
- Where |q| |k| bounds the scores, no running maximum is looked for (Cauchy-Schwarz).
- No product has a transposed operand, which would cost up to three quarters of the speed: dquery is
  summed transposed, and transposed once at the end.
- In a long sequence one key head after another goes around the ring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

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
from agentic_transformer.ring.kernels.cpu_math import dot_rows, exp2, l2_norm, matmul, reduce_rows
from agentic_transformer.ring.kernels.rows import RowLayout
from agentic_transformer.ring.masks import (
    MASK_VALUE,
    KeyPositions,
    Mask,
    MaskKind,
    QueryIntervals,
    hide,
)
from agentic_transformer.ring.nonfinite import zero_nonfinite

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453

SAFE_EXPONENT = 40.0
"""Scores within +-SAFE_EXPONENT, base 2, need no shift before they are raised to powers: sums of
2^40 are far from overflow."""


class SoftmaxState(NamedTuple):
    """Holds an online softmax over the keys so far, float32, base 2.

    With scores s in base 2: numerator = sum 2^(s - max) v, denominator = sum 2^(s - max).
    """

    max: Array  # (..., queries), what scores are relative to: near the maximum, >= MASK_VALUE
    denominator: Array  # (..., queries)
    numerator: Array  # (..., queries, head_dim)

    def relative_to(self, new_max: Array) -> SoftmaxState:
        """Returns the same softmax with another maximum, (..., queries)."""
        decay = jnp.exp2(self.max - new_max)
        return SoftmaxState(new_max, self.denominator * decay, self.numerator * decay[..., None])


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["layout"])
@dataclass(frozen=True)
class Packed:
    """Holds a carry in rows.

    Attributes:
        arrays: the carry, (rows, ...).
        layout: how it becomes (batch, heads, ...) again; static.
    """

    arrays: Any
    layout: RowLayout


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

    def init(self, query: Array, key: Array) -> Packed:
        """Returns the softmax over no keys."""
        layout = RowLayout.make(self.chunks, query, key)
        rows = layout.query_shape()
        numerator = jnp.zeros(layout.query_shape(query.shape[3]), jnp.float32)
        denominator = jnp.zeros(rows, jnp.float32)
        state = SoftmaxState(jnp.full(rows, MASK_VALUE, jnp.float32), denominator, numerator)
        return Packed(state, layout)

    def forward(self, carry: Packed, query: Array, key: Array, value: Array, mask: Mask) -> Packed:
        """Continues the softmax with a block of keys."""
        rows = [carry.layout.pack(array) for array in (query, key, value)]
        fields = carry.layout.mask_fields(mask)
        if rows[1].shape[1] <= self.chunks.whole:
            attend = partial(block_forward, masked=_is_masked(mask), high_precision=True)
        else:
            attend = partial(chunked_forward, self.chunks)
        return replace(carry, arrays=attend(carry.arrays, *rows, *fields))

    def finish(self, carry: Packed) -> tuple[Array, Array]:
        """Returns numerator / denominator, and lse = max ln 2 + ln denominator."""
        state, layout = carry.arrays, carry.layout
        out = state.numerator / jnp.where(state.denominator > 0, state.denominator, 1)[..., None]
        lse = state.max * LN_2 + jnp.log(state.denominator)
        return layout.unpack(out, layout.heads), layout.unpack(lse, layout.heads)

    def prepare_backward(self, query, key, out, lse, cotangent) -> tuple[Array, ...]:
        """Returns rows of (cotangent, lse, delta); lse is infinite, a weight of 0, in padding."""
        residual = super().prepare_backward(query, key, out, lse, cotangent)
        pack = RowLayout.make(self.chunks, query, key).pack
        cotangent, lse, delta = residual
        return pack(cotangent), pack(lse, fill=jnp.inf), pack(delta)

    def init_backward(self, query: Array, key: Array) -> Packed:
        """Returns zeros for dquery, transposed: (rows, head_dim, tokens)."""
        layout = RowLayout.make(self.chunks, query, key)
        rows, tokens = layout.query_shape()
        return Packed(jnp.zeros((rows, query.shape[3], tokens), jnp.float32), layout)

    def backward(self, residual, dquery: Packed, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery, and returns this block's dkey and dvalue."""
        layout = dquery.layout
        rows = [layout.pack(array) for array in (query, key, value)]
        fields = layout.mask_fields(mask)
        if rows[1].shape[1] <= self.chunks.whole:
            transposed_key = zero_nonfinite(rows[1]).mT
            how = {"masked": _is_masked(mask), "high_precision": True}
            more, *gradients = block_backward(residual, *rows, transposed_key, *fields, **how)
            total = dquery.arrays + more
        else:
            total, *gradients = chunked_backward(
                self.chunks, residual, dquery.arrays, *rows, *fields
            )
        gradients = (layout.unpack(gradient, layout.key_heads) for gradient in gradients)
        return Packed(total, layout), *gradients

    def finish_backward(self, dquery: Packed) -> Array:
        """Returns dquery, (batch, heads, queries, head_dim)."""
        return dquery.layout.unpack(dquery.arrays.mT, dquery.layout.heads)

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


def block_forward(
    state: SoftmaxState,
    query: Array,
    key: Array,
    value: Array,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    masked: bool,
    high_precision: bool,
    needs_rescale: Array | bool = True,
) -> SoftmaxState:
    """Continues a softmax with a block of keys, all at once.

    With s = q.k log2(e) / sqrt(head_dim) and m' = max(m, max_j s_j):
    l' = 2^(m - m') l + sum_j 2^(s_j - m'),  O' = 2^(m - m') O + sum_j 2^(s_j - m') v_j.

    Args:
        state: the softmax over the keys before.
        query: (..., queries, head_dim).
        key: (..., keys, head_dim).
        value: as key.
        queries: what the queries see.
        keys: where the keys are.
        masked: whether some query may not see some key.
        high_precision: whether some query may see few keys in all.
        needs_rescale: (..., queries), or the same for all: whether scores may be so large that m
            must follow their maximum; where not, m' = m.
    """
    scores = dot_rows(query, key, high_precision=high_precision)
    if masked:
        scores = hide(scores, -jnp.inf, queries, keys)
        value = zero_nonfinite(value)
    scale = query.shape[-1] ** -0.5 * LOG2_E
    if needs_rescale is not False:
        new_max = jnp.maximum(state.max, reduce_rows(jnp.maximum, scores) * scale)
        state = state.relative_to(jnp.where(needs_rescale, new_max, state.max))
    weights = exp2(scores * scale - state.max[..., None])
    return SoftmaxState(
        state.max,
        state.denominator + reduce_rows(jnp.add, weights),
        state.numerator + matmul(weights, value),
    )


def block_backward(
    residual: tuple[Array, Array, Array],
    query: Array,
    key: Array,
    value: Array,
    transposed_key: Array,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    masked: bool,
    high_precision: bool,
) -> tuple[Array, Array, Array]:
    """Returns a block's (dquery, dkey, dvalue), dquery as (..., head_dim, queries).

    The residual is (dO, lse, delta = rowsum(O dO)). With all matrices transposed, (keys, queries):
    P = 2^(S - lse log2 e),  dV = P dO,  dP = V dO^T,  dS = P (dP - delta) / sqrt(head_dim),
    dK = dS Q,  dQ^T = K^T dS.

    `transposed_key` is K^T, `zero_nonfinite(key).mT`: a loop over queries computes it once. (XLA's
    CPU backend lacks bfloat16 products of a transpose in which NaN is replaced.)

    In high precision a moderate lse divides the exponential of a score, instead of being subtracted
    from the score: P then carries the very rounding errors of the forward pass, and what should
    cancel in the gradient does.
    """
    (cotangent, lse, delta), scale = residual, query.shape[-1] ** -0.5
    # (..., keys, queries)
    scores = dot_rows(key, query, high_precision=high_precision) * (scale * LOG2_E)
    offset, factor = lse * LOG2_E, None
    if high_precision:
        moderate = jnp.abs(offset) <= SAFE_EXPONENT
        offset, factor = jnp.where(moderate, 0, offset), jnp.where(moderate, jnp.exp(-lse), 1)
    scores -= offset[..., None, :]
    if masked:
        scores = hide(scores, -jnp.inf, queries, keys, keys_first=True)  # last: lse may be NaN
    weights = exp2(scores) if factor is None else exp2(scores) * factor[..., None, :]
    dweights = dot_rows(value, cotangent, high_precision=high_precision)
    dscores = weights * (dweights - delta[..., None, :]) * scale
    if masked:
        dscores = hide(dscores, 0, queries, keys, keys_first=True)  # 0 times NaN is NaN
        query, cotangent = zero_nonfinite(query), zero_nonfinite(cotangent)
    dquery = jnp.matmul(
        transposed_key, dscores.astype(key.dtype), preferred_element_type=jnp.float32
    )
    return (
        dquery,
        matmul(dscores, query, high_precision=high_precision),
        matmul(weights, cotangent, high_precision=high_precision),
    )


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
    """
    chunks = chunks.fitted(*query.shape[:2], key.shape[1])
    query_slicer = BlockSlicer(chunks.rows, chunks.queries)
    key_slicer = BlockSlicer(chunks.rows, chunks.keys)
    query_norms = l2_norm(query)
    # The largest norm of each chunk of keys, (rows, chunks).
    key_norms = l2_norm(key).reshape(key.shape[0], -1, chunks.keys).max(axis=-1)
    scale = query.shape[-1] ** -0.5 * LOG2_E

    def query_chunk(
        group: Array, index: Array, schedule: BlockSchedule, state: SoftmaxState
    ) -> SoftmaxState:
        ours = query_slicer.take(query, group, index)
        our_fields = query_slicer.mask_fields(queries, group, index)

        def visit(key_index: Array, so_far: SoftmaxState, **how: Any) -> SoftmaxState:
            theirs = (key_slicer.take(array, group, key_index) for array in (key, value))
            fields = key_slicer.mask_fields(keys, group, key_index)
            return block_forward(so_far, ours, *theirs, our_fields, fields, **how)

        visit_full = partial(visit, masked=False, high_precision=False)
        so_far = SoftmaxState(*(query_slicer.take(array, group, index) for array in state))
        # By Cauchy-Schwarz |q.k| <= |q||k|; within SAFE_EXPONENT no running maximum is needed.
        # Norms of full chunks alone count: keys that a query does not see must not round it.
        norms = BlockSlicer(chunks.rows, key_norms.shape[1]).take(key_norms, group, 0)
        largest = _largest_full(schedule, norms)[..., None]
        bound = query_slicer.take(query_norms, group, index) * largest * scale
        needs_rescale = ~(bound <= SAFE_EXPONENT)  # also where the bound is NaN
        some_need = needs_rescale.any()
        so_far = so_far.relative_to(
            jnp.where(needs_rescale, so_far.max, jnp.maximum(so_far.max, 0))
        )
        # One of two loops over the full chunks runs: a `cond` would copy the state.
        fast_end = jnp.where(some_need, 0, schedule.full_end)
        slow_end = jnp.where(some_need, schedule.full_end, 0)
        so_far = schedule.run(0, fast_end, partial(visit_full, needs_rescale=False), so_far)
        so_far = schedule.run(0, slow_end, partial(visit_full, needs_rescale=needs_rescale), so_far)
        so_far = _run_partial(schedule, partial(visit, masked=True), so_far)
        return SoftmaxState(
            *(
                query_slicer.put(array, part, group, index)
                for array, part in zip(state, so_far, strict=True)
            )
        )

    slicers = (query_slicer, key_slicer)
    return for_each_block(slicers, queries, keys, query.shape[0], query_chunk, state)


def chunked_backward(
    chunks: Chunks,
    residual: tuple[Array, Array, Array],
    dquery: Array,
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
        dquery, *sums = _run_partial(schedule, partial(visit, masked=True), so_far)
        return dquery, *(
            key_slicer.put(total, part, group, index)
            for total, part in zip(totals, sums, strict=True)
        )

    zero = jnp.zeros(key.shape, jnp.float32)
    slicers = (key_slicer, query_slicer)
    return for_each_block(slicers, keys, queries, query.shape[0], key_chunk, (dquery, zero, zero))


def _run_partial(schedule: BlockSchedule, visit: Callable, carry: Any) -> Any:
    """Visits the partly visible chunks, those that need it in high precision."""
    plain, precise = (partial(visit, high_precision=flag) for flag in (False, True))
    carry = schedule.run(schedule.full_end, schedule.plain_end, plain, carry)
    return schedule.run(schedule.plain_end, schedule.non_empty_end, precise, carry)


def _largest_full(schedule: BlockSchedule, norms: Array) -> Array:
    """Returns the largest of norms (rows, chunks) over the full chunks; infinity without any."""
    is_full = jnp.arange(schedule.order.size) < schedule.full_end
    norms = jnp.where(is_full, norms[:, schedule.order], 0).max(axis=1)
    return jnp.where(schedule.full_end > 0, norms, jnp.inf)
