"""The schedule that XLA makes of the ring for TPU pods; needs the extra `tpu`, not a TPU."""

import pytest

from agentic_transformer.capacity.compiler import available
from experiments.benchmarks.ring_schedule import TOPOLOGIES, overlap, schedule

needs_compiler = pytest.mark.skipif(not available(), reason="the extra `tpu` is not installed")


def test_computation_between_start_and_end_is_counted():
    program = """
      %collective-permute-start.1 = (f32[2]) collective-permute-start(%a)
      %collective-permute-start = (f32[2]) collective-permute-start(%b)
      %while.3 = f32[2] while(%c), condition=%d, body=%e
      %collective-permute-done = f32[2] collective-permute-done(%collective-permute-start)
      %collective-permute-done.1 = f32[2] collective-permute-done(%collective-permute-start.1)
      %collective-permute-start.2 = (f32[2]) collective-permute-start(%d)
      %fusion = f32[2] fusion(%c), kind=kLoop, calls=%f
      %collective-permute-done.2 = f32[2] collective-permute-done(%collective-permute-start.2)
    """
    assert overlap(program) == (3, 3, 2)


@needs_compiler
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_all_permutes_hide_but_the_last_hop_of_the_gradients(topology):
    found = schedule(topology, TOPOLOGIES[topology])
    # Forward 2 (keys, values) before the loop, shared with the backward pass, and 2 in it; backward
    # 4 in the loop, 2 beside the last step, and the 2 that bring the gradients home.
    assert found.permutes == 12 and found.behind_products >= 10


@needs_compiler
def test_memory_is_flat_in_devices():
    few, many = (schedule("v5e:4x4", devices).temporary_bytes for devices in (4, 16))
    assert many <= 1.02 * few
