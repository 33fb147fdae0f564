"""Specifies `Kernel` in the papers' formulas; this kernel is not made for speed.

Online softmax: Milakov and Gimelshein 2018 (arXiv 1805.02867). Blocks and gradients:
FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.masks import MASK_VALUE, KeyPositions, Mask, QueryIntervals, hide
from agentic_transformer.ring.nonfinite import zero_nonfinite

_einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)


class SoftmaxState(NamedTuple):
    """Holds an online softmax over the keys so far, float32."""

    max: jax.Array  # m, (..., queries)
    denominator: jax.Array  # l, (..., queries)
    numerator: jax.Array  # O, not divided by l yet, (..., queries, head_dim)


@dataclass(frozen=True)
class ReferenceKernel(Kernel):
    """Computes all scores of a block at once, with key heads repeated for their query heads."""

    def init(self, query: jax.Array, key: jax.Array) -> SoftmaxState:
        """Returns m = MASK_VALUE, l = 0, O = 0."""
        zero = jnp.zeros_like(query[..., 0], jnp.float32)
        return SoftmaxState(zero + MASK_VALUE, zero, jnp.zeros_like(query, jnp.float32))

    def forward(self, carry, query, key, value, mask: Mask) -> SoftmaxState:
        """Continues the softmax."""
        key, value = (_repeat_heads(array, query) for array in (key, value))
        return block_forward(carry, query, key, value, mask.queries, mask.keys)

    def finish(self, carry: SoftmaxState, query: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns O / l and lse = m + log l."""
        denominator = jnp.where(carry.denominator > 0, carry.denominator, 1)
        return carry.numerator / denominator[..., None], carry.max + jnp.log(carry.denominator)

    def backward(self, residual, dquery, query, key, value, mask: Mask) -> tuple:
        """Adds to dquery, and sums dkey and dvalue over the query heads of each key head."""
        batch, key_heads = key.shape[:2]
        key, value = (_repeat_heads(array, query) for array in (key, value))
        more, *gradients = block_backward(residual, query, key, value, mask.queries, mask.keys)
        return dquery + more, *(
            gradient.reshape(batch, key_heads, -1, *gradient.shape[2:]).sum(axis=2)
            for gradient in gradients
        )


def _repeat_heads(key: jax.Array, query: jax.Array) -> jax.Array:
    """Repeats (batch, key_heads, keys, head_dim) -> (batch, heads, keys, head_dim)."""
    return jnp.repeat(key, query.shape[1] // key.shape[1], axis=1)


def block_forward(
    state: SoftmaxState,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    masked: bool = True,
) -> SoftmaxState:
    """Continues an online softmax; arrays (..., tokens, head_dim).

    m' = max(m, rowmax S),  P = exp(S - m'),
    l' = exp(m - m') l + rowsum P,  O' = exp(m - m') O + P V.
    """
    scores = _scores(query, key)  # S, (..., queries, keys)
    if masked:
        scores = hide(scores, -jnp.inf, queries, keys)
        value = zero_nonfinite(value)
    new_max = jnp.maximum(state.max, scores.max(axis=-1))
    weights = jnp.exp(scores - new_max[..., None])
    decay = jnp.exp(state.max - new_max)
    return SoftmaxState(
        new_max,
        decay * state.denominator + weights.sum(axis=-1),
        decay[..., None] * state.numerator
        + _einsum("...qk,...kd->...qd", weights.astype(value.dtype), value),
    )


def block_backward(
    residual: tuple[jax.Array, jax.Array, jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: QueryIntervals,
    keys: KeyPositions,
    *,
    masked: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a block's (dquery, dkey, dvalue); the residual is (dO, lse, delta = rowsum(O dO)).

    P = exp(S - lse),  dV = P^T dO,  dP = dO V^T,  dS = P (dP - delta) / sqrt(head_dim),
    dQ = dS K,  dK = dS^T Q.

    P and dS shrink as 1 / keys, down to where float16 loses digits. So its factors become float32.
    """
    cotangent, lse, delta = residual
    if query.dtype == jnp.float16:
        query, key, value, cotangent = (
            array.astype(jnp.float32) for array in (query, key, value, cotangent)
        )
    scores = _scores(query, key) - lse[..., None]  # (..., queries, keys)
    if masked:
        scores = hide(scores, -jnp.inf, queries, keys)  # last: scores and lse may be NaN
    weights = jnp.exp(scores)
    dweights = _einsum("...qd,...kd->...qk", cotangent, value)
    dscores = weights * (dweights - delta[..., None]) * query.shape[-1] ** -0.5
    if masked:
        dscores = hide(dscores, 0, queries, keys)  # 0 times NaN is NaN
        query, key, cotangent = (zero_nonfinite(array) for array in (query, key, cotangent))
    weights, dscores = weights.astype(query.dtype), dscores.astype(query.dtype)
    return (
        _einsum("...qk,...kd->...qd", dscores, key),
        _einsum("...qk,...qd->...kd", dscores, query),
        _einsum("...qk,...qd->...kd", weights, cotangent),
    )


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns S = Q K^T / sqrt(head_dim)."""
    return _einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5
