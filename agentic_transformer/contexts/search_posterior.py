"""What the return of an attempt tells of the task: the evidence that ideal searches weigh, as
chains and as ceilings.
"""

from __future__ import annotations

import numpy as np

_PRECISION = 0.05
"""Standard deviation of an observed return about a task's, as a share of the best: tasks in between
those known are met too."""


def log_likelihood(returns: np.ndarray, observed: np.ndarray | float, best: float) -> np.ndarray:
    """How well tasks explain the return of an attempt.

    Args:
        returns: (..., tasks) what the attempt earns under each task that may be.
        observed: (..., 1), or one number for all: what it earned.
        best: the best return of any task.

    Returns:
        (..., tasks) log-likelihoods, but for a constant.
    """
    return -0.5 * ((returns - observed) / (_PRECISION * best)) ** 2
