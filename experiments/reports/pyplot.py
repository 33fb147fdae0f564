"""Provides matplotlib's pyplot with a backend that needs no screen."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend is chosen first)

__all__ = ["plt"]
