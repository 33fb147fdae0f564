"""What the compiler of NVIDIA GPUs makes of the ring and of a train step, on a machine without one.

Needs JAX's CUDA plugin (the extra `cuda12` or `cuda13`).
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from agentic_transformer.agents.programs import pack_tokens
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
from experiments.benchmarks import agent_models
from tests.capacity.test_estimates import MODEL, workload

MIB = 2**20
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(gpu.missing()), reason=gpu.missing())]


@pytest.mark.parametrize(
    ("topology", "with_gradients", "most"),
    [
        ("h100:4", False, 60 * MIB),
        ("h100:4", True, 125 * MIB),
        ("h100_infiniband:32", True, 125 * MIB),
    ],
)
def test_the_ring_on_h100s(topology, with_gradients, most):
    """16,384 tokens a device in bfloat16, 4 heads of 64: memory does not grow with the ring.

    An array of a device is 8 MiB in bfloat16: 56.5 MiB forward hold seven of them. What the 120.4
    MiB with gradients hold is told in `docs/results.md`, "Memory with gradients".
    """
    devices = compiler.describe_devices(topology)
    mesh = make_mesh(len(devices), devices)
    on_ring = NamedSharding(mesh, PartitionSpec(None, RING))
    shape = (1, 16_384 * len(devices), 4, 64)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=on_ring)

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
    # Backward, the last hop home has none beside it: two arrays in bfloat16, in one permute.
    alone = [permute.sent_bytes for permute in permutes if not permute.beside_attention]
    assert permutes and alone == ([2 * 8 * MIB] if with_gradients else [])
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


def test_a_step_of_acting_is_one_program_of_few_kernels(monkeypatch):
    """The quickstart's agent, 64 environments; a small model's step waits for kernels to start.

    There are 29 with jax 0.11 and 35 with jax 0.10, which fuses less.
    """
    policy = agent_models.policy(agent_models.quickstart())
    context = policy.new_context(64, 8)
    packed = pack_tokens(np.zeros((64, 1, policy.layout.feature_size)), np.zeros((64, 1)), 3)
    # As on a GPU: attention takes all rows at once, and norms are one kernel.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = compiler.describe_devices("h100:1")[0]

    def act(leaves, cache, packed, key):
        return policy._programs.act(leaves, cache, packed, jax.random.wrap_key_data(key))

    key = jax.random.key_data(jax.random.key(0))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device)),
        (policy._leaves, context.cache, packed, key),
    )
    program = jax.jit(act, donate_argnums=1).lower(*shapes).compile().as_text()
    entry = program[program.index("\nENTRY") :]
    kernels = len(re.findall(r" (?:fusion|custom-call|while|conditional)\(", entry))
    assert 20 < kernels <= 36


def test_what_does_not_fit_is_refused():
    """XLA accepts it; its peak is more than the memory."""
    dense = dataclasses.replace(MODEL, attention="dense", blockwise_feedforward=False)
    found = compiler.compile_step(workload("a100:1", dense, 32_768), fast=True)
    assert isinstance(found, Refused) and found.required > found.available == 80e9
