"""Bounds on rounding errors. They follow from numbers of operations and sizes of numbers, so that
they hold on any machine.

A floating-point operation errs by at most u of its result, u being half of the type's epsilon. The
error of n operations, one after another, is at most n u of the size of what they work on (N. J.
Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). As their errors are
independent and of either sign, it is also at most CERTAINTY sqrt(n) u, but with a probability of 2
exp(-CERTAINTY**2 / 2) (N. J. Higham and T. Mary, SIAM Journal on Scientific Computing 41, 2019,
theorem 2.4). Both hold in any order of summation, of any width of vectors, with fused
multiplications and additions or without.
"""

import ml_dtypes
import numpy as np

CERTAINTY = 6.0
"""One result in thirty million may err by more, if all errors were as large as they can be; they
are not."""

SIGMAS = 5.0
"""A statistic may lie so many standard deviations from its expectation: one in two million lies
farther."""


def unit(dtype=np.float32):
    """Returns the largest relative error of one rounding."""
    return float(ml_dtypes.finfo(dtype).eps) / 2


def rounding(operations, dtype=np.float32):
    """Returns the largest error of so many roundings, relative to the size of what is rounded;
    arrays are taken too."""
    return np.minimum(operations, CERTAINTY * np.sqrt(operations)) * unit(dtype)


def assert_close(found, expected, operations, magnitude=None, dtype=np.float32):
    """Asserts that two results of the same arithmetic, each of so many roundings, agree.

    Args:
        found: an array.
        expected: another.
        operations: the roundings on the longest way from the inputs to either.
        magnitude: the size of what is rounded, a number or an array like them; the largest of
            `expected` if None.
        dtype: the type of the arithmetic.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    magnitude = np.abs(expected).max(initial=0) if magnitude is None else magnitude
    assert_within(found, expected, 2 * rounding(operations, dtype) * magnitude)


def assert_within(found, expected, bound):
    """Asserts that arrays differ nowhere by more than a bound, a number or an array like them; NaN
    is never within."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    error, bound = np.abs(found - expected), np.broadcast_to(bound, found.shape)
    beyond = ~(error <= bound)
    if beyond.any():
        at = tuple(np.argwhere(beyond)[0].tolist())
        raise AssertionError(
            f"{beyond.sum()} of {error.size} are off, at {at} by {error[at]:.3g}; {bound[at]:.3g} is allowed"
        )
