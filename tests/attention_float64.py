"""Attention and its gradients as the formulas stand, in numpy float64, with bounds on the error of
any arithmetic in float32, or with factors in 16 bits."""

from typing import NamedTuple

import numpy as np

from tests.tolerances import assert_within, rounding, unit

ROWS = 512
"""Queries at once, which bounds memory."""


class Exact(NamedTuple):
    """Results in float64: (batch, sequence, heads, head_dim) each, or their bounds."""

    output: np.ndarray
    query: np.ndarray  # the gradient of the sum of weights * output by the query, and so on
    key: np.ndarray
    value: np.ndarray


def attention_float64(query, key, value, weights=None, **setting):
    """Returns the output, and the gradients of the sum of weights * output."""
    return attention_and_bounds(query, key, value, weights, **setting)[0]


def assert_attention(found, exact, bounds, dtype=np.float32):
    """Asserts that each result, rounded to `dtype` in the end, is within its bound."""
    for result, right, bound in zip(found, exact, bounds, strict=False):
        assert_within(result, right, bound + unit(dtype) * np.abs(right))


def attention_and_bounds(
    query,
    key,
    value,
    weights=None,
    *,
    causal=True,
    segment_ids=None,
    window=None,
    length=None,
    exponential=4,
    products=np.float32,
):
    """Returns `Exact` results and bounds on the error of each number of them in float32, in any
    order of summation.

    A score s = q.k is rounded as a sum of head_dim terms, and where it is scaled and shifted, six
    times at its own size. Its exponential turns that absolute error into a relative one of the
    weight: errors grow with the size of the scores. What all weights of a query have in common
    cancels, as the output is relative to their sum. The bounds carry these errors
    through the formulas, each weighted by what it falls on.

    In 16 bits, sums are still float32's, but weights and gradients of scores are rounded to 16 bits
    before they are multiplied with values, keys, queries and cotangents, and so is the output from
    which delta = rowsum(O dO) is computed. A fused kernel also rounds what one head and one block
    of keys contribute to a result, before contributions are added.

    Args:
        query: (batch, queries, heads, head_dim); as many queries as keys if causal.
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        weights: as query, what the outputs are weighted with; the query if None.
        causal: whether a query sees only keys up to its own position.
        segment_ids: (batch, sequence).
        window: keys that a query sees.
        length: tokens that are no padding.
        exponential: the error of an exponential, in units of rounding.
        products: the type of the factors of products with weights, and of the results.
    """
    query, key, value, weights = (
        np.asarray(x, np.float64)
        for x in (query, key, value, query if weights is None else weights)
    )
    batch, queries, heads, head_dim = query.shape
    group, scale, u = heads // key.shape[2], head_dim**-0.5, unit()
    of_factor = 0 if np.dtype(products) == np.float32 else unit(products)
    exact, bounds = (
        Exact(*(np.zeros(x.shape) for x in (query, query, key, value))) for _ in range(2)
    )
    i_all, j, of_product = np.arange(queries)[:, None], np.arange(key.shape[1]), rounding(head_dim)
    of_sum = rounding(queries * group + exponential)  # over queries, for keys and values
    for b, h, first in np.ndindex(batch, heads, -(-queries // ROWS)):
        rows = slice(first * ROWS, (first + 1) * ROWS)
        i, g = i_all[rows], h // group
        seen = (j <= i) | (not causal)
        if window is not None:
            seen &= i - j < window
        if length is not None:
            seen &= (i < length) & (j < length)
        if segment_ids is not None:
            seen &= segment_ids[b][rows, None] == segment_ids[b]
        q, w, k, v = query[b, rows, h], weights[b, rows, h], key[b, :, g], value[b, :, g]
        q_, w_, k_, v_ = (np.abs(x) for x in (q, w, k, v))
        scores = np.where(seen, q @ k.T * scale, -np.inf)
        top = np.maximum(scores.max(axis=1, keepdims=True), -1e300)  # finite where nothing is seen
        share = np.exp(scores - top)
        total = share.sum(axis=1, keepdims=True)
        share /= np.where(total > 0, total, 1)
        output = share @ v
        dshare = w @ v.T
        dscores = share * (dshare - (share * dshare).sum(axis=1, keepdims=True)) * scale
        exact.output[b, rows, h], exact.query[b, rows, h] = output, dscores @ k
        exact.key[b, :, g] += dscores.T @ q
        exact.value[b, :, g] += share.T @ w

        largest = np.where(seen, np.abs(scores), 0).max(axis=1, keepdims=True)
        # Relative errors of the weights; those beyond 1 are not of first order.
        of_weight = (
            np.expm1(
                np.minimum(of_product * scale * (q_ @ k_.T) + u * (6 * largest + exponential), 100)
            )
            * seen
        )
        count = np.maximum(seen.sum(axis=1, keepdims=True), head_dim) + exponential
        of_row = rounding(count)
        off = share * of_weight
        beyond = off @ v_ + off.sum(axis=1, keepdims=True) * np.abs(output)
        within = v_.max(axis=0) + np.abs(
            output
        )  # an output is a mean of values, whatever the weights
        of_output = np.minimum(beyond, within) + of_row * (share @ v_ + np.abs(output))
        of_output += 2 * of_factor * (share @ v_)  # of weights, and of contributions
        # The gradient divides by the sum of weights as it was computed, whose error all weights of
        # a query share.
        of_weight += (
            off.sum(axis=1, keepdims=True)
            + of_row
            + 2 * u * np.abs(largest + np.log(np.maximum(total, 1)))
        )
        pushed = w_ @ v_.T
        of_delta = of_row * (share * pushed).sum(axis=1, keepdims=True) + (
            w_ * (of_output + of_factor * np.abs(output))
        ).sum(axis=1, keepdims=True)
        of_scores = np.abs(dscores) * (of_weight + 3 * u) + scale * share * (
            of_product * pushed + of_delta
        )
        of_scores += of_factor * (np.abs(dscores) + of_scores)
        of_weight += of_factor
        bounds.output[b, rows, h] = of_output
        dscores_, of_key_sum = np.abs(dscores), of_sum + of_factor
        bounds.query[b, rows, h] = of_scores @ k_ + (of_row + of_factor) * (dscores_ @ k_)
        bounds.key[b, :, g] += of_scores.T @ q_ + of_key_sum * (dscores_.T @ q_)
        bounds.value[b, :, g] += (share * of_weight).T @ w_ + of_key_sum * (share.T @ w_)
    return exact, bounds
