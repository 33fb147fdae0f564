"""Computes what the return of an attempt tells about a hidden task.

Chains that imitate a search use it (`selection=search`), and so do the oracles that bound how well
any search can do.
"""

from __future__ import annotations

import numpy as np

_PRECISION = 0.05
"""Standard deviation of an observed return, as a share of the best return. It is not 0, because a
task may lie between those that are known."""


def log_likelihood(returns: np.ndarray, observed: np.ndarray | float, best: float) -> np.ndarray:
    """Returns how well each task explains the return of an attempt.

        log p(observed | task) = -1/2 ((returns[task] - observed) / (precision * best))^2 + constant

    Args:
        returns: (..., tasks) return of the attempt under each possible task.
        observed: (..., 1), or one number for all: the return that was observed.
        best: the best return of any task.

    Returns:
        (..., tasks) log-likelihoods, up to a constant.
    """
    return -0.5 * ((returns - observed) / (_PRECISION * best)) ** 2
