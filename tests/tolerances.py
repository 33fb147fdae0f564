"""Computes bounds on rounding errors, from numbers of operations and sizes of numbers.

The bounds hold on any machine. A floating-point operation has a relative error of at most u, half
of the type's epsilon. The relative error of n operations, one after another, is at most n u (N. J.
Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). As the errors are
independent and of either sign, it is also at most CERTAINTY sqrt(n) u, except with a probability of
2 exp(-CERTAINTY**2 / 2) (N. J. Higham and T. Mary, SIAM Journal on Scientific Computing 41, 2019,
theorem 2.4). Both bounds hold for any order of summation and any width of vectors, with and without
fused multiply-adds.
"""

import ml_dtypes
import numpy as np

CERTAINTY = 6.0
"""One result in thirty million exceeds the bound if every error is as large as it can be."""

TINY = float(np.finfo(np.float32).tiny)
"""The smallest normal number of float32: what is smaller may be 0 there."""

SIGMAS = 5.0
"""Standard deviations between a statistic and its expectation: one in two million has more."""


def unit(dtype=np.float32):
    """Returns the largest relative error of one rounding."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def rounding(operations, dtype=np.float32):
    """Returns the largest relative error of a number of roundings; takes arrays, too."""
    return np.minimum(operations, CERTAINTY * np.sqrt(operations)) * unit(dtype)


def assert_close(found, expected, operations, magnitude=None, dtype=np.float32):
    """Asserts that two results of the same arithmetic agree but for rounding.

    Args:
        found: an array.
        expected: another of the same shape.
        operations: the number of roundings on the longest way from the inputs to a result.
        magnitude: the size of the numbers that are rounded, a number or an array of that shape;
            None takes the largest of `expected`.
        dtype: the type of the arithmetic.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    magnitude = np.abs(expected).max(initial=0) if magnitude is None else magnitude
    assert_within(found, expected, 2 * rounding(operations, dtype) * magnitude)


def assert_within(found, expected, bound):
    """Asserts that arrays differ nowhere by more than a bound, a number or an array; NaN fails."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    error, bound = np.abs(found - expected), np.broadcast_to(bound, found.shape)
    beyond = ~(error <= bound)
    if beyond.any():
        at = tuple(np.argwhere(beyond)[0].tolist())
        off = f"{beyond.sum()} of {error.size} are off, at {at} by {error[at]:.3g}"
        raise AssertionError(f"{off}; {bound[at]:.3g} is allowed")
