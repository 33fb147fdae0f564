"""Draws pictures so that a failure never costs a result, and finds the limits of the plane."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from agentic_transformer.errors import shorten


def drawing_failure(path: Path, draw: Callable[[Path], object]) -> str:
    """Draws a picture in place of an earlier one; never raises an error.

    If it fails, one line says why, and there is no picture.

    Args:
        path: path of the picture.
        draw: draws it to the path that it is given.

    Returns:
        Why the picture is not there; empty if it is.
    """
    try:
        path.unlink(missing_ok=True)
        draw(path)
    except Exception as error:  # any error: it must not end the command that has results to show
        with suppress(OSError):
            path.unlink(missing_ok=True)
        words = " ".join(str(error).split())
        reason = shorten(f"{type(error).__name__}: {words}")
        print(f"no {path}: {reason}", flush=True)
        return reason
    return ""


def plane_limit(positions: np.ndarray, goals: np.ndarray, radius: float) -> float:
    """Returns how far a picture of the plane reaches from its centre to every side, in metres.

    It shows all positions, and all goals, also those that nobody came near.

    Args:
        positions: (..., 2).
        goals: (..., 2).
        radius: of the discs around the goals.
    """
    return max(
        0.2, float(np.abs(positions).max()) * 1.05, float(np.abs(goals).max()) + float(radius)
    )
