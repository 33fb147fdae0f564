"""Bounds of numeric tests hold for float32 in any order of summation, and fail for faults."""

import ml_dtypes
import numpy as np
import pytest

from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng
from tests.tolerances import assert_close

LENGTH, HEAD = 200, 16


def plainly(query, key, value, *, order=slice(None), scale=1.0, hidden=None, dtype=np.float32):
    """Causal attention of one head in float32, its keys in some order."""
    mask = np.tri(len(query), dtype=bool)[:, order]
    scores = (query @ key[order].T) * np.float32(scale * HEAD**-0.5)
    scores = np.where(mask, scores, -np.inf)
    if hidden is not None:
        scores[hidden + 1 :, np.arange(len(key))[order] == hidden] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True)).astype(dtype).astype(np.float32)
    return (weights @ value[order]) / weights.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def problem():
    arrays = [rng(n).standard_normal((1, LENGTH, 1, HEAD), np.float32) for n in range(3)]
    return [x[0, :, 0] for x in arrays], attention_and_bounds(*arrays)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), rng(3).permutation(LENGTH)])
def test_float32_is_within_the_bounds_of_attention(problem, order):
    arrays, expected = problem
    assert_attention([plainly(*arrays, order=order)[None, :, None]], *expected)


@pytest.mark.parametrize(
    "fault",
    [
        {"scale": 1.001},
        {"hidden": 5},
        {"hidden": LENGTH // 2},
        {"hidden": LENGTH - 3},
        {"dtype": ml_dtypes.bfloat16},
    ],
    ids=str,
)
def test_a_fault_of_attention_is_not(problem, fault):
    """A scale off by a thousandth, a key that later queries do not see, weights in bfloat16."""
    arrays, expected = problem
    with pytest.raises(AssertionError, match="is allowed"):
        assert_attention([plainly(*arrays, **fault)[None, :, None]], *expected)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "a term left out", "bfloat16", "NaN"])
def test_sums_of_float32_in_any_order_agree_and_others_do_not(fault):
    terms = rng(4).standard_normal((100, 1000), np.float32)
    expected = terms.sum(axis=1, dtype=np.float64)
    found = np.zeros(100, np.float32 if fault != "bfloat16" else ml_dtypes.bfloat16)
    for column in rng(5).permutation(1000)[: 999 if fault == "a term left out" else None]:
        found = (found + terms[:, column]).astype(found.dtype)
    found = np.where(fault == "NaN", np.nan, found.astype(np.float32))
    if fault == "none":
        assert_close(found, expected, 1000)
    else:
        with pytest.raises(AssertionError, match="is allowed"):
            assert_close(found, expected, 1000)
