"""The machines that are planned for: each figure has a source, and a ring is as fast as its
slowest hop."""

import datetime
import tomllib

import pytest

from agentic_transformer.capacity.hardware import DEVICES, topology


@pytest.mark.parametrize("path", sorted(DEVICES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_figure_has_a_source_and_a_date(path):
    said = tomllib.loads(path.read_text())
    for figure in (said["memory"], said["flops"], *said["links"].values()):
        assert figure["source"] and isinstance(figure["date"], datetime.date)
    # The compiler of GPUs has to be told what a device is.
    assert path.with_suffix(".txtpb").exists() == (said["platform"] == "gpu")


@pytest.mark.parametrize(
    ("name", "ring", "rate"),
    [
        ("h100:8", 8, 450e9),
        ("h100_infiniband:32", 32, 50e9),
        ("h100_infiniband:32", 16, 50e9),
        ("h100_infiniband:32", 8, 450e9),
        ("h100_infiniband:32", 4, 450e9),
        ("a100_infiniband:16", 16, 12.5e9),
        ("v5e:4x4", 16, 50e9),
    ],
)
def test_a_ring_is_as_fast_as_its_slowest_hop(name, ring, rate):
    assert topology(name).link(ring) == rate


def test_a_host_has_eight_gpus():
    assert [topology(name).hosts for name in ("h100:8", "h100_infiniband:32")] == [1, 4]
