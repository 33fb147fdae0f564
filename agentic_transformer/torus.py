"""Closed walks over a grid of accelerators: rings whose neighbours are neighbours on the grid, each with a link of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any


def ring_order(devices: Sequence[Any]) -> list[Any] | None:
    """Devices in the order of a closed walk over the grid that their `coords` make, one link at a time.

    Returns:
        None where there is no such walk: without coordinates, with several devices at one, with holes, or of odd sizes.
    """
    at = {tuple(device.coords): device for device in devices if hasattr(device, "coords")}
    if not at or len(at) != len(devices):
        return None
    ranges = [sorted(set(values)) for values in zip(*at, strict=True)]
    cycle = closed_walk([len(values) for values in ranges])
    if cycle is None or set(product(*ranges)) != set(at):
        return None
    return [at[tuple(values[place] for values, place in zip(ranges, places, strict=True))] for places in cycle]


def closed_walk(sizes: Sequence[int]) -> list[tuple[int, ...]] | None:
    """Every place of a grid once, each next to the one before it, the last next to the first; None if no axis is even.

    Up and down the rows of an even axis, over all columns but the first, and back along that one. The columns are a walk over all
    other axes.
    """
    even = next((axis for axis, size in enumerate(sizes) if size % 2 == 0), None)
    if even is None:
        return None
    columns = _walk([*sizes[:even], *sizes[even + 1 :]])
    rows = range(sizes[even])
    if len(columns) == 1 and len(rows) > 2:
        return None
    there = [(row, column) for row in rows for column in (columns[1:] if row % 2 == 0 else columns[:0:-1])]
    places = [(0, columns[0]), *there, *((row, columns[0]) for row in rows[:0:-1])]
    return [(*column[:even], row, *column[even:]) for row, column in places]


def _walk(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every place of a grid once, each next to the one before it."""
    if not sizes:
        return [()]
    inner = _walk(sizes[1:])
    return [(place, *rest) for place in range(sizes[0]) for rest in (inner if place % 2 == 0 else inner[::-1])]
