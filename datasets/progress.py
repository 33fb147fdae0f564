"""Draws progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    label: str, items: Iterable | None = None, *, unit: str, show: bool, **options: Any
) -> tqdm:
    """Makes a bar that is redrawn twice a second, which suits logs, too.

    Args:
        label: stands before the bar.
        items: what to iterate over; None for a bar that is updated by hand.
        unit: of what is counted; bytes, `B`, and steps are written with k, M and so on.
        show: whether to draw it.
        **options: of tqdm.
    """
    scale = unit in ("B", "step")
    options = options | {"unit": unit, "unit_scale": scale, "disable": not show}
    return tqdm(items, label, mininterval=0.5, **options)
