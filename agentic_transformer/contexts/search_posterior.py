"""Computes what the return of an attempt tells about a hidden task.

Chains that imitate a search use it (`selection=search`), and so do the oracles that bound how well
any search can do.
"""

from __future__ import annotations

import numpy as np

_PRECISION = 0.05
"""Standard deviation of an observed return, as a share of the size of returns. It is not 0, because
a task may lie between those that are known."""


def return_size(returns: np.ndarray) -> float:
    """Returns the absolute best return, or the absolute worst one if the best is 0, or else 1."""
    return float(abs(returns.max()) or abs(returns.min()) or 1.0)


def log_likelihood(returns: np.ndarray, observed: np.ndarray | float, size: float) -> np.ndarray:
    """Returns how well each task explains the return of an attempt.

        log p(observed | task) = -1/2 ((returns[task] - observed) / (precision * size))^2 + constant

    Args:
        returns: (..., tasks) return of the attempt under each possible task.
        observed: (..., 1), or one number for all: the return that was observed.
        size: the size of the returns of all tasks, see `return_size`.

    Returns:
        (..., tasks) log-likelihoods, up to a constant.
    """
    return -0.5 * ((returns - observed) / (_PRECISION * size)) ** 2
