"""Attention of some queries to some keys at once, in plain JAX, and its gradient.

Products are written so that no operand has to be transposed, which costs XLA's CPU backend up to three quarters of its speed.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array

from agentic_transformer.ring.kernel import Running
from agentic_transformer.ring.visibility import Keys, Queries, visible

MODERATE = 40.0
"""A log-sum-exp within +-MODERATE may divide exponentials of scores that were not shifted: exp(40) is far from overflow."""


def attend(
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    running: Running,
    *,
    masked: bool,
    halving: bool = False,
) -> Running:
    """Continues a softmax with the keys given.

    The running maximum is of the keys that a query sees. It is kept even where no score could overflow: to leave it out by a
    test of all scores would let tokens round the outputs of earlier ones.

    Args:
        query: (..., queries, head_dim).
        key: (..., keys, head_dim), and value.
        value: as key.
        queries: what the queries see.
        keys: where the keys are.
        running: the softmax over the keys before.
        masked: whether some query may not see some key.
        halving: whether rows of scores are reduced by halves, as whole vectors: a reduction along a row is slow on CPUs.
    """
    scores = _contract(query, key, "...ad,...bd->...ab", -1, quarters=masked)
    if masked:
        scores = _hide(scores, queries, keys)
    scale = query.shape[-1] ** -0.5
    largest = jnp.maximum(running.largest, _reduce(jnp.maximum, scores, halving) * scale)
    weights, shrink = jnp.exp(scores * scale - largest[..., None]), jnp.exp(running.largest - largest)
    total = running.total * shrink + _reduce(jnp.add, weights, halving)
    return Running(largest, total, running.sums * shrink[..., None] + _product(weights, value))


def differentiate(
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    cotangent: Array,
    lse: Array,
    delta: Array,
    *,
    transposed: Array,
    masked: bool,
) -> tuple[Array, Array, Array]:
    """This pair's part of the gradients of query (as (..., head_dim, queries)), key and value.

    Arguments are those of `BlockKernel`, and `transposed`, which is key.mT: a loop over queries computes it once.

    Where a query may see few keys, in masked pairs, a moderate log-sum-exp divides the exponential of the score, instead of
    being subtracted from the score: the weights then carry the very rounding errors of the forward pass, and what should
    cancel in the gradient does.
    """
    scale = query.shape[-1] ** -0.5
    scores = _contract(key, query, "...ad,...bd->...ab", -1, quarters=masked) * scale  # (..., keys, queries)
    if masked:
        scores = _hide(scores, queries, keys, keys_first=True)
        moderate = jnp.abs(lse) <= MODERATE
        offset, factor = jnp.where(moderate, 0, lse), jnp.where(moderate, jnp.exp(-lse), 1)
        weights = jnp.exp(scores - offset[..., None, :]) * factor[..., None, :]
    else:
        weights = jnp.exp(scores - lse[..., None, :])
    dweights = _contract(value, cotangent, "...ad,...bd->...ab", -1, quarters=masked)
    dscores = weights * (dweights - delta[..., None, :]) * scale
    dquery = jnp.matmul(transposed, dscores.astype(key.dtype), preferred_element_type=jnp.float32)
    return dquery, _product(dscores, query, quarters=masked), _product(weights, cotangent, quarters=masked)


def _product(a: Array, b: Array, *, quarters: bool = False) -> Array:
    """Matrix product in float32, of b's type until then."""
    return _contract(a.astype(b.dtype), b, "...ab,...bd->...ad", -2, quarters=quarters)


def _contract(a: Array, b: Array, formula: str, axis: int, *, quarters: bool) -> Array:
    """Product in float32, by an einsum that sums over the last axis of a and `axis` of b.

    Errors are largest for queries that see few keys, and come from rounding in the scores and in sums of large weights. These
    queries are all in masked pairs, few in number: there, in float32, quarters of the sum are added pairwise, which leaves
    the error that exact scores would.
    """
    product = partial(jnp.einsum, formula, preferred_element_type=jnp.float32)
    if not quarters or a.dtype != jnp.float32 or a.shape[-1] % 4:
        return product(a, b)
    parts = zip(jnp.split(a, 4, axis=-1), jnp.split(b, 4, axis=axis), strict=True)
    first, second, third, fourth = (product(*pair) for pair in parts)
    return (first + second) + (third + fourth)


def _hide(scores: Array, queries: Queries, keys: Keys, *, keys_first: bool = False) -> Array:
    mask = visible(queries, keys, keys_first=keys_first)
    return jnp.where(mask.reshape(mask.shape[0], *[1] * (scores.ndim - 3), *mask.shape[1:]), scores, -jnp.inf)


def _reduce(ufunc: jnp.ufunc, x: Array, halving: bool) -> Array:
    """Reduces each row."""
    while halving and x.shape[-1] % 2 == 0:
        x = ufunc(*jnp.split(x, 2, axis=-1))
    return ufunc.reduce(x, axis=-1)
