"""Rings that go around a grid one link at a time."""

from itertools import product
from types import SimpleNamespace

import pytest

from agentic_transformer.torus import closed_walk, ring_order


def links(places):
    """Links between each place and the next, the last and the first."""
    return [sum(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(places, places[1:] + places[:1], strict=True)]


@pytest.mark.parametrize(
    "sizes", [(2, 2), (2, 4), (4, 4), (16, 16), (3, 4), (5, 2, 3), (2, 2, 1), (4, 4, 4), (8, 8, 8), (1, 2, 1)]
)
def test_each_step_is_one_link(sizes):
    places = closed_walk(sizes)
    assert sorted(places) == sorted(product(*map(range, sizes)))
    assert set(links(places)) == {1}


@pytest.mark.parametrize("sizes", [(3, 3), (1,), (4, 1, 1), (5, 3, 3)])
def test_some_grids_have_no_such_ring(sizes):
    assert closed_walk(sizes) is None


def test_devices_are_ordered_by_their_coordinates():
    devices = [SimpleNamespace(coords=[x, y + 4, 0]) for y in range(4) for x in range(2)]
    ordered = ring_order(devices)
    assert set(links([tuple(device.coords) for device in ordered])) == {1}
    assert ring_order(devices[:-1]) is None  # a hole
    assert ring_order([*devices, *devices]) is None  # two at each place
    assert ring_order([SimpleNamespace(), SimpleNamespace()]) is None
