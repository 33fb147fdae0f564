"""The schedule that XLA makes of the ring for GPUs; needs the extra `cuda12`, not a GPU."""

import re
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agentic_transformer.capacity.compiler import describe_devices
from agentic_transformer.capacity.hlo_permutes import read_permutes
from agentic_transformer.ring import compiler_options, ring_attention, ring_attention_shard
from agentic_transformer.ring.kernels.cudnn import CUDNN_KERNEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("jax_cuda12_plugin") is None, reason="the extra `cuda12` is not installed"
    ),
]


def bodies_of_loops(program):
    """The text of each computation of a scheduled program that a while loop runs.

    With all computations that it might branch to, as `read_permutes` looks for them.
    """
    names = set(re.findall(r" while\(.*body=(%[\w.-]+)", program))
    parts = re.split(r"\n(?=%|ENTRY)", program)
    bodies = [part for part in parts if part.split(" ", 1)[0] in names]
    others = "\n".join(part for part in parts if part not in bodies and part[0] == "%")
    return [f"{others}\n{body}" for body in bodies]


def test_all_that_a_step_sends_goes_beside_fused_attention():
    """Forward and backward, where XLA joins all permutes of a step."""
    mesh = Mesh(np.array(describe_devices("h100:4")), ("ring",), axis_types=(AxisType.Auto,))
    cut = PartitionSpec(None, "ring")
    attend = jax.shard_map(
        partial(ring_attention_shard, kernel=CUDNN_KERNEL),
        mesh=mesh,
        in_specs=(cut,) * 3,
        out_specs=cut,
        check_vma=False,
    )
    x = jax.ShapeDtypeStruct((1, 65_536, 16, 64), jnp.bfloat16, sharding=NamedSharding(mesh, cut))
    step = jax.jit(lambda q, k, v, g: jax.vjp(attend, q, k, v)[1](g)).lower(x, x, x, x)
    bodies = bodies_of_loops(step.compile(compiler_options("gpu")).as_text())
    found = [read_permutes(body) for body in bodies]
    assert len(found) == 2
    assert all(permutes and all(p.beside_attention for p in permutes) for permutes in found)


def test_no_two_backward_calls_are_equal_where_xla_must_be_deterministic(monkeypatch):
    """XLA would compile the first alone, and fail. Two layers, which are traced alike."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_exclude_nondeterministic_ops=true")
    mesh = Mesh(np.array(describe_devices("h100:4")), ("ring",), axis_types=(AxisType.Auto,))
    attend = partial(ring_attention, mesh=mesh, kernel="cudnn")
    cut = NamedSharding(mesh, PartitionSpec(None, "ring"))
    x = jax.ShapeDtypeStruct((1, 512, 2, 64), jnp.bfloat16, sharding=cut)

    def layers(query, key, value):
        return attend(attend(query, key, value), key, value)

    @jax.jit
    def differentiate(*arrays):
        return jax.vjp(layers, *arrays[:3])[1](arrays[3])

    program = differentiate.lower(x, x, x, x).compile().as_text()
    calls = re.findall(r"fmhaSoftmaxBackward.*", program)
    seeds = [re.search(r'"seed": ?"?(\d+)', call)[1] for call in calls]
    # In each layer: step 0, and two in the loop and two behind it, of which a device makes one.
    assert len(set(seeds)) == len(seeds) == 2 * 5


def test_a_shard_map_over_some_axes_only_may_call_cudnn():
    """Forward and backward, where the batch is left to the compiler."""
    devices = np.array(describe_devices("h100:4")).reshape(2, 2)
    mesh = Mesh(devices, ("data", "ring"), axis_types=(AxisType.Auto,) * 2)
    cut = PartitionSpec(None, "ring")
    attend = jax.shard_map(
        partial(ring_attention_shard, kernel=CUDNN_KERNEL),
        mesh=mesh,
        in_specs=cut,
        out_specs=cut,
        axis_names={"ring"},
        check_vma=False,
    )
    sharding = NamedSharding(mesh, PartitionSpec("data", "ring"))
    x = jax.ShapeDtypeStruct((2, 512, 2, 64), jnp.bfloat16, sharding=sharding)
    step = jax.jit(lambda q, k, v, g: jax.vjp(attend, q, k, v)[1](g)).lower(x, x, x, x)
    assert "fmhaSoftmaxBackward" in step.compile().as_text()
