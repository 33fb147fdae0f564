"""Computes attention of the CPU kernel within one block: its formulas and its arithmetic.

The formulas are written for XLA's CPU backend. The left operand of a product is never transposed,
which would cost up to three quarters of the speed. So dquery is summed as (head_dim, tokens) and
transposed once at the end.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.masks import KeyPositions, QueryIntervals, hide
from agentic_transformer.ring.nonfinite import zero_nonfinite

LOG2_E = 1.4426950408889634

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
    needs_rescale: Array | None = None,
    in_cache: bool = True,
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
        needs_rescale: (..., queries), whether scores may be so large that m must follow their
            maximum; where not, m' = m. None: everywhere.
        in_cache: whether the scores stay in a core's cache; if not, XLA's own exponentials and
            reductions are faster than those of this file.
    """
    scores = dot_rows(query, key, high_precision=high_precision)  # (..., queries, keys)
    if masked:
        scores = hide(scores, -jnp.inf, queries, keys)
        value = zero_nonfinite(value)
    scale = query.shape[-1] ** -0.5 * LOG2_E
    power, reduce = (exp2, reduce_rows) if in_cache else (jnp.exp2, _reduce_plainly)

    def follow_maximum(state: SoftmaxState) -> SoftmaxState:
        new_max = jnp.maximum(state.max, reduce(jnp.maximum, scores) * scale)
        if needs_rescale is not None:
            new_max = jnp.where(needs_rescale, new_max, state.max)
        return state.relative_to(new_max)

    # What one query needs must not change a bit of another one. So the branch ends before the
    # weights: XLA would round them in two ways in two branches.
    if needs_rescale is None:
        state = follow_maximum(state)
    else:
        state = lax.cond(needs_rescale.any(), follow_maximum, lambda state: state, state)
    weights = power(scores * scale - state.max[..., None])
    return SoftmaxState(
        state.max,
        state.denominator + reduce(jnp.add, weights),
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
    in_cache: bool = True,
) -> tuple[Array, Array, Array]:
    """Returns a block's (dquery, dkey, dvalue), dquery as (..., head_dim, queries).

    The residual is (dO, lse, delta = rowsum(O dO)). With all matrices transposed, (keys, queries):
    P = 2^(S - lse log2 e),  dV = P dO,  dP = V dO^T,  dS = P (dP - delta) / sqrt(head_dim),
    dK = dS Q,  dQ^T = K^T dS.

    `transposed_key` is K^T, `zero_nonfinite(key).mT`: a loop over queries computes it once. (XLA's
    CPU backend lacks bfloat16 products of a transpose in which NaN is replaced.)

    In high precision, a moderate lse divides the exponential of a score instead of being subtracted
    from the score. P then has the same rounding errors as in the forward pass, so that terms of the
    gradient that should cancel do cancel.

    P and dS shrink as 1 / keys, down to where float16 loses digits. So its factors become float32.
    """
    (cotangent, lse, delta), scale = residual, query.shape[-1] ** -0.5
    if query.dtype == jnp.float16:
        query, key, value, transposed_key, cotangent = (
            array.astype(jnp.float32) for array in (query, key, value, transposed_key, cotangent)
        )
    # S^T in base 2, then P^T, (..., keys, queries)
    scores = dot_rows(key, query, high_precision=high_precision) * (scale * LOG2_E)
    offset, factor = lse * LOG2_E, None
    if high_precision:
        moderate = jnp.abs(offset) <= SAFE_EXPONENT
        offset, factor = jnp.where(moderate, 0, offset), jnp.where(moderate, jnp.exp(-lse), 1)
    scores -= offset[..., None, :]
    if masked:
        scores = hide(scores, -jnp.inf, queries, keys, keys_first=True)  # last: lse may be NaN
    weights = exp2(scores) if in_cache else jnp.exp2(scores)
    weights = weights if factor is None else weights * factor[..., None, :]
    # dP^T, then dS^T, (..., keys, queries)
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


def exp2(x: Array) -> Array:
    """Returns 2^x for x up to 126, more exactly than XLA, in half of its time; 0 below -127.

    With n the integer nearest to x and f = x - n, 2^x = 2^n 2^f. The polynomial for 2^f is the
    minimax one of its degree among those that are 1 at 0; its relative error is at most 2e-9. The
    exponent bits of 2^-n are the last bits of the sum 1.5 * 2^23 + 127 - n. A hidden score has
    n = -128: the bits of 2^128 are those of infinity, so the result is 0. XLA considers the
    division by 2^-n expensive and computes it once; it would compute a product anew for each use.
    """
    x = jnp.where(x < -128, -128, x)
    n = jnp.round(x)
    f = x - n
    series = jnp.full_like(f, 0.00015353362)
    for coefficient in (0.0013398874, 0.009618437, 0.055503324, 0.24022648, 0.6931472, 1):
        series = series * f + coefficient
    exponent = lax.bitcast_convert_type((1.5 * 2**23 + 127) - n, jnp.int32) << 23
    return series / lax.bitcast_convert_type(exponent, jnp.float32)


def reduce_rows(ufunc: jnp.ufunc, x: Array) -> Array:
    """Reduces (..., n) -> (...), by halves as whole vectors: a loop along a row is slow."""
    while x.shape[-1] % 2 == 0:
        x = ufunc(*jnp.split(x, 2, axis=-1))
    return ufunc.reduce(x, axis=-1)


def _reduce_plainly(ufunc: jnp.ufunc, x: Array) -> Array:
    return ufunc.reduce(x, axis=-1)


def l2_norm(x: Array) -> Array:
    """Returns the norms of vectors, (..., head_dim) -> (...), in float32."""
    return jnp.sqrt(jnp.einsum("...d,...d->...", x, x, preferred_element_type=jnp.float32))


def dot_rows(a: Array, b: Array, *, high_precision: bool = False) -> Array:
    """Returns a b^T, (..., m, d) and (..., n, d) -> (..., m, n), in float32."""
    return _contract(a, b, "...ad,...bd->...ab", -1, high_precision)


def matmul(a: Array, b: Array, *, high_precision: bool = False) -> Array:
    """Returns a b, (..., m, n) and (..., n, d) -> (..., m, d), in float32; a in b's dtype."""
    return _contract(a.astype(b.dtype), b, "...ab,...bd->...ad", -2, high_precision)


def _contract(a: Array, b: Array, formula: str, axis: int, high_precision: bool) -> Array:
    """Contracts the last axis of a with `axis` of b.

    Errors are largest for queries that see few keys. They come from rounding in the scores and in
    sums of large weights. In high precision, a float32 sum is computed in four quarters that are
    added pairwise; its error is then no larger than with exact scores.
    """
    product = partial(jnp.einsum, formula, preferred_element_type=jnp.float32)
    if not high_precision or a.dtype != jnp.float32 or a.shape[-1] % 4:
        return product(a, b)
    quarters = zip(jnp.split(a, 4, axis=-1), jnp.split(b, 4, axis=axis), strict=True)
    first, second, third, fourth = (product(*pair) for pair in quarters)
    return (first + second) + (third + fourth)
