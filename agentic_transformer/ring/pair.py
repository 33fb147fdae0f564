"""Attention of some queries to some keys at once, in plain JAX, and its gradient.

Products are written so that no operand has to be transposed, which costs XLA's CPU backend up to three quarters of its speed.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

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
    on_cpu: bool = False,
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
        on_cpu: whether it is written as XLA's CPU backend is fast at: reductions along rows, exponentials.
    """
    scores = _contract(query, key, "...ad,...bd->...ab", -1, quarters=masked)
    if masked:
        scores = _hide(scores, queries, keys)
    scale = query.shape[-1] ** -0.5
    largest = jnp.maximum(running.largest, _reduce(jnp.maximum, scores, halving=on_cpu) * scale)
    exp = _exp if on_cpu and not masked else jnp.exp
    weights, shrink = exp(scores * scale - largest[..., None]), jnp.exp(running.largest - largest)
    total = running.total * shrink + _reduce(jnp.add, weights, halving=on_cpu)
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
    on_cpu: bool = False,
) -> tuple[Array, Array, Array]:
    """This pair's part of the gradients of query (as (..., head_dim, queries)), key and value.

    Arguments are those of `BlockKernel` and `attend`, and `transposed`, which is key.mT: a loop over queries computes it once.

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
        weights = (_exp if on_cpu else jnp.exp)(scores - lse[..., None, :])
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


def _reduce(ufunc: jnp.ufunc, x: Array, *, halving: bool) -> Array:
    """Reduces each row; by halves, as whole vectors, where a reduction along a row is slow."""
    while halving and x.shape[-1] % 2 == 0:
        x = ufunc(*jnp.split(x, 2, axis=-1))
    return ufunc.reduce(x, axis=-1)


def _exp(x: Array) -> Array:
    """exp(x) for x up to 87, as exact as XLA's, in two thirds of its time on CPUs; never below exp(-87), which is 2e-38.

    2^n exp(f), where n is the integer nearest to x / ln 2 and f what is left. No polynomial of its degree has a smaller greatest
    relative error, 4e-9. The bits of 2^-n are the last ones of a sum. A division by it XLA takes for expensive and computes once;
    a product it would compute anew for each use.
    """
    x = jnp.where(x < -87, -87, x)
    n = jnp.round(x * 1.4426950408889634)
    f = x - n * 0.693359375 + n * 2.12194440e-4  # ln 2 in two parts: n times the first is exact
    series = jnp.full_like(f, 0.001381459878757596)
    for coefficient in (0.008368716575205326, 0.04166838899254799, 0.1666652113199234, 0.4999999403953552, 1, 1):
        series = series * f + coefficient
    exponent = lax.bitcast_convert_type((1.5 * 2**23 + 127) - n, jnp.int32) << 23
    return series / lax.bitcast_convert_type(exponent, jnp.float32)
