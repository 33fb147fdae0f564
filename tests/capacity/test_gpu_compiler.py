"""What the compiler of NVIDIA GPUs makes of the ring and of a train step, on a machine without one.

Needs JAX's CUDA plugin (the extra `cuda12` or `cuda13`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from agentic_transformer.capacity import compiler, memory
from agentic_transformer.capacity.compilers import gpu
from agentic_transformer.capacity.hlo_permutes import (
    count_conditionals,
    count_fused_calls,
    read_permutes,
)
from agentic_transformer.capacity.outcome import Refused
from agentic_transformer.ring import compiler_options, ring_attention
from agentic_transformer.training.sharding import RING, make_mesh
from tests.capacity.test_estimates import MODEL, workload

MIB = 2**20
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(gpu.missing()), reason=gpu.missing())]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(4, compiler.describe_devices("h100:4"))


@pytest.mark.parametrize(("with_gradients", "most"), [(False, 60 * MIB), (True, 130 * MIB)])
def test_the_ring_on_four_h100(mesh, with_gradients, most):
    """65,536 tokens in bfloat16, 4 heads of 64.

    An array of a device is 8 MiB in bfloat16: 56.5 MiB forward hold seven of them, 120.4 MiB with
    gradients fifteen: all that travels is held twice, and gradients are float32.
    """
    on_ring = NamedSharding(mesh, PartitionSpec(None, RING))
    x = jax.ShapeDtypeStruct((1, 65_536, 4, 64), jnp.bfloat16, sharding=on_ring)

    def attend(*arrays):
        return ring_attention(*arrays, mesh=mesh)

    def differentiate(*arrays):
        out, pull = jax.vjp(attend, *arrays[:3])
        return out, pull(arrays[3])

    function, arrays = (differentiate, (x,) * 4) if with_gradients else (attend, (x,) * 3)
    compiled = jax.jit(function, compiler_options=compiler_options("gpu")).lower(*arrays).compile()
    program = compiled.as_text()
    permutes = read_permutes(program)
    # Each pass branches between two calls in its loop, and in its last step behind the loop.
    branches = 4 if with_gradients else 2
    assert count_fused_calls(program) > branches and count_conditionals(program) == branches
    # Backward, neither what comes before the first call nor the last hop home has one beside it.
    alone = len(permutes) - sum(permute.beside_attention for permute in permutes)
    assert permutes and alone <= (2 if with_gradients else 0)
    assert compiled.memory_analysis().temp_size_in_bytes <= most


def test_a_train_step_on_four_h100():
    """Its parameters are sharded over the devices of the ring, and its attention is fused."""
    where = workload("h100:4", MODEL, 16_384)
    found = compiler.compile_step(where, fast=True)
    assert found.fused_calls > found.conditionals == 4
    ring = [permute for permute in found.permutes if permute.of_ring]
    assert len(ring) > 2
    assert sum(permute.beside_attention for permute in ring) >= len(ring) - 2
    assert memory.estimate(where).peak == pytest.approx(found.memory.peak, rel=0.1)


def test_what_does_not_fit_is_refused():
    """XLA accepts it; its peak is more than the memory."""
    dense = dataclasses.replace(MODEL, attention="dense", blockwise_feedforward=False)
    found = compiler.compile_step(workload("a100:1", dense, 32_768), fast=True)
    assert isinstance(found, Refused) and found.required > found.available == 80e9
