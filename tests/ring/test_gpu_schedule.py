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
from agentic_transformer.ring import compiler_options, ring_attention_shard
from agentic_transformer.ring.kernels.cudnn import CUDNN_KERNEL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("jax_cuda12_plugin") is None, reason="the extra `cuda12` is not installed"
    ),
]


def bodies_of_loops(program):
    """The lines of each computation of a scheduled program that a while loop runs."""
    names = set(re.findall(r" while\(.*body=(%[\w.-]+)", program))
    for text in re.split(r"\n(?=%|ENTRY)", program):
        if text.split(" ", 1)[0] in names:
            yield text.splitlines()


def permutes_beside_attention(lines):
    """Whether a call of fused attention stands between start and end, for each permute."""
    open_, found = {}, []
    for line in lines:
        if start := re.search(r"(%collective-permute-start[\w.-]*) =", line):
            open_[start[1]] = False
        elif end := re.search(r"collective-permute-done\((%[\w.-]+)\)", line):
            found.append(open_.pop(end[1]))
        elif "__cudnn$fmha" in line and "custom-call(" in line:
            open_ = dict.fromkeys(open_, True)
    return found


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
    found = [
        permutes_beside_attention(lines)
        for lines in bodies_of_loops(step.compile(compiler_options("gpu")).as_text())
    ]
    assert len(found) == 2 and all(beside and all(beside) for beside in found)
