"""Finds out whether `datasets` is this project's package: Hugging Face's has the same name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_OURS = Path(__file__).resolve().parents[1] / "datasets" / "__init__.py"
_ADVICE = "the two need environments of their own, or another start folder (docs/data.md)"


def describe_clash() -> str | None:
    """Says which package `datasets` is here, if it is not this project's; None if it is.

    If both are installed in one environment, they share one folder. Then the text of `__init__.py`
    decides.
    """
    spec = importlib.util.find_spec("datasets")
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    if origin == _OURS and "datasets.trajectory_store" in _OURS.read_text(encoding="utf-8"):
        return None
    found = origin or "missing"
    return f"package 'datasets' here is {found}, not this project's (Hugging Face's?): {_ADVICE}"
