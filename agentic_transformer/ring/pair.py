"""Attention of some queries to some keys at once, in plain JAX, and its gradient.

Products are written so that no operand has to be transposed, which costs XLA's CPU backend up to
three quarters of its speed.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.hidden import cleared
from agentic_transformer.ring.kernel import Running
from agentic_transformer.ring.visibility import Keys, Queries, visible

BITS = 1.4426950408889634
"""1 / ln 2, the bits in a score of 1."""

MODERATE = 40.0
"""Scores within +-MODERATE bits need not be shifted before they are raised to powers: sums of 2^40
are far from overflow."""


def attend(
    query: Array,
    key: Array,
    value: Array,
    queries: Queries,
    keys: Keys,
    running: Running,
    *,
    masked: bool,
    careful: bool,
    rising: Array | bool = True,
    on_cpu: bool = False,
) -> Running:
    """Continues a softmax with the keys given.

    Args:
        query: (..., queries, head_dim).
        key: (..., keys, head_dim), and value.
        value: as key.
        queries: what the queries see.
        keys: where the keys are.
        running: the softmax over the keys before.
        masked: whether some query may not see some key.
        careful: whether some query may see few keys in all, see `_contract`.
        rising: (..., queries), or the same for all: whether scores may be so large that the
            reference has to follow the greatest.
        on_cpu: whether it is written as XLA's CPU backend is fast at: reductions along rows,
            exponentials.
    """
    scores = _contract(query, key, "...ad,...bd->...ab", -1, careful=careful)
    if masked:
        scores = _hide(scores, -jnp.inf, queries, keys)
        value = cleared(value)
    scale, exp2 = query.shape[-1] ** -0.5 * BITS, _exp2 if on_cpu else jnp.exp2
    if rising is not False:
        greatest = jnp.maximum(
            running.reference, _reduce(jnp.maximum, scores, halving=on_cpu) * scale
        )
        running = running.relative_to(jnp.where(rising, greatest, running.reference))
    weights = exp2(scores * scale - running.reference[..., None])
    total = running.total + _reduce(jnp.add, weights, halving=on_cpu)
    return Running(running.reference, total, running.sums + _product(weights, value))


def norm(x: Array) -> Array:
    """Lengths of vectors (..., head_dim), in float32."""
    return jnp.sqrt(jnp.einsum("...d,...d->...", x, x, preferred_element_type=jnp.float32))


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
    careful: bool,
    on_cpu: bool = False,
) -> tuple[Array, Array, Array]:
    """This pair's part of the gradients of query (as (..., head_dim, queries)), key and value.

    Arguments are those of `BlockKernel` and `attend`, and `transposed`, which is `cleared(key).mT`:
    a loop over queries computes it once. (XLA's CPU backend lacks bfloat16 products of a transpose
    that is cleared.)

    Where a query may see few keys, in careful pairs, a moderate log-sum-exp divides the exponential
    of the score, instead of being subtracted from the score: the weights then carry the very
    rounding errors of the forward pass, and what should cancel in the gradient does.
    """
    scale, exp2 = query.shape[-1] ** -0.5, _exp2 if on_cpu else jnp.exp2
    scores = _contract(key, query, "...ad,...bd->...ab", -1, careful=careful) * (
        scale * BITS
    )  # (..., keys, queries)
    offset, factor = lse, None
    if careful:
        moderate = jnp.abs(lse) <= MODERATE
        offset, factor = jnp.where(moderate, 0, lse), jnp.where(moderate, jnp.exp2(-lse), 1)
    scores -= offset[..., None, :]
    if masked:
        scores = _hide(scores, -jnp.inf, queries, keys, keys_first=True)  # last: lse may be NaN
    weights = exp2(scores) if factor is None else exp2(scores) * factor[..., None, :]
    dweights = _contract(value, cotangent, "...ad,...bd->...ab", -1, careful=careful)
    dscores = weights * (dweights - delta[..., None, :]) * scale
    if masked:
        dscores = _hide(dscores, 0, queries, keys, keys_first=True)  # 0 times NaN or infinity
        query, cotangent = cleared(query), cleared(cotangent)
    dquery = jnp.matmul(transposed, dscores.astype(key.dtype), preferred_element_type=jnp.float32)
    return (
        dquery,
        _product(dscores, query, careful=careful),
        _product(weights, cotangent, careful=careful),
    )


def _product(a: Array, b: Array, *, careful: bool = False) -> Array:
    """Matrix product in float32, of b's type until then."""
    return _contract(a.astype(b.dtype), b, "...ab,...bd->...ad", -2, careful=careful)


def _contract(a: Array, b: Array, formula: str, axis: int, *, careful: bool) -> Array:
    """Product in float32, by an einsum that sums over the last axis of a and `axis` of b.

    Errors are largest for queries that see few keys, and come from rounding in the scores and in
    sums of large weights. For these, if careful, in float32, quarters of the sum are added
    pairwise, which leaves the error that exact scores would.
    """
    product = partial(jnp.einsum, formula, preferred_element_type=jnp.float32)
    if not careful or a.dtype != jnp.float32 or a.shape[-1] % 4:
        return product(a, b)
    parts = zip(jnp.split(a, 4, axis=-1), jnp.split(b, 4, axis=axis), strict=True)
    first, second, third, fourth = (product(*pair) for pair in parts)
    return (first + second) + (third + fourth)


def _hide(
    pairs: Array, fill: float, queries: Queries, keys: Keys, *, keys_first: bool = False
) -> Array:
    """Fills the hidden ones of pairs (..., queries, keys), or (..., keys, queries)."""
    mask = visible(queries, keys, keys_first=keys_first)
    mask = mask.reshape(mask.shape[0], *[1] * (pairs.ndim - 3), *mask.shape[1:])
    return jnp.where(mask, pairs, fill)


def _reduce(ufunc: jnp.ufunc, x: Array, *, halving: bool) -> Array:
    """Reduces each row; by halves, as whole vectors, where a reduction along a row is slow."""
    while halving and x.shape[-1] % 2 == 0:
        x = ufunc(*jnp.split(x, 2, axis=-1))
    return ufunc.reduce(x, axis=-1)


def _exp2(x: Array) -> Array:
    """2^x for x up to 126, more exact than XLA's, in half of its time on CPUs; 0 below -127.

    2^n 2^f, where n is the integer nearest to x and f what is left. No polynomial of its degree
    that is 1 at 0 has a smaller greatest relative error, 2e-9. The bits of 2^-n are the last ones
    of a sum; those of 2^128 are infinity's, by which what is hidden becomes 0. A division by it XLA
    takes for expensive and computes once; a product it would compute anew for each use.
    """
    x = jnp.where(x < -128, -128, x)
    n = jnp.round(x)
    f = x - n
    series = jnp.full_like(f, 0.00015353362)
    for coefficient in (0.0013398874, 0.009618437, 0.055503324, 0.24022648, 0.6931472, 1):
        series = series * f + coefficient
    exponent = lax.bitcast_convert_type((1.5 * 2**23 + 127) - n, jnp.int32) << 23
    return series / lax.bitcast_convert_type(exponent, jnp.float32)
