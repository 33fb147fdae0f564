"""The overlap condition, and that permutes are independent of the computation they hide behind."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from agentic_transformer.ring import Chunks, CPUKernel, compiler_options, ring_attention_shard
from agentic_transformer.ring.overlap import CHIPS, minimal_block, paper_minimal_sequence
from tests.static_kernel import StaticKernel

CHIP = {chip.name: chip for chip in CHIPS}


@pytest.mark.parametrize(
    ("name", "block", "sequence"),
    [
        ("A100 NVLink", 1.0, 6.2),
        ("TPU v3", 1.1, 6.6),
        ("TPU v4", 1.0, 6.2),
        ("TPU v5e", 1.1, 6.3),
        # The paper prints a block of 24.5, which its own sequence of 149.5 = 6 blocks contradicts.
        ("A100 InfiniBand", 25.0, 149.8),
    ],
)
def test_table_2_of_the_paper(name, block, sequence):
    # The paper's thousands have one decimal; its last one may be cut or rounded.
    assert minimal_block(CHIP[name]) / 1e3 == pytest.approx(block, abs=0.06)
    assert paper_minimal_sequence(CHIP[name]) / 1e3 == pytest.approx(sequence, abs=0.06)


def test_what_changes_the_condition():
    chip = CHIP["A100 NVLink"]
    block = minimal_block(chip)
    assert minimal_block(chip, causal=True) == 2 * block
    assert minimal_block(chip, group=4) == block / 4
    # Backward: 2 (2 + 4) bytes instead of 2 * 2, 10 FLOPs instead of 4.
    backward = minimal_block(chip, backward=True)
    assert backward == pytest.approx(block * (12 / 10) / (4 / 4))
    assert minimal_block(chip, backward=True, causal=True) == 2 * backward


def test_options_of_the_compiler_are_known_to_the_installed_jax():
    """XLA refuses an option that it does not know, on any platform."""
    options = compiler_options("gpu")
    assert options and not compiler_options("cpu")
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={"xla_gpu_no_option": 1})(1)


def loops(jaxpr):
    """Every scan of a jaxpr, however deep."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["jaxpr"].jaxpr
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
        ):
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if isinstance(inner, Jaxpr):
                yield from loops(inner)


@pytest.mark.parametrize(
    "kernel",
    [CPUKernel(Chunks(32, 32, whole=16)), CPUKernel(Chunks(32, 32, whole=10**6)), StaticKernel()],
    ids=["in chunks", "whole", "static"],
)
def test_every_permute_sends_what_its_step_began_with(kernel):
    mesh = AbstractMesh((8,), ("ring",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(None, "ring")
    attend = jax.shard_map(
        partial(ring_attention_shard, kernel=kernel),
        mesh=mesh,
        in_specs=(spec,) * 3,
        out_specs=spec,
        check_vma=False,
    )
    x = jax.ShapeDtypeStruct((1, 1024, 2, 8), np.float32)
    jaxpr = jax.make_jaxpr(lambda q, k, v, g: jax.vjp(attend, q, k, v)[1](g))(x, x, x, x)
    permutes = []
    for body in loops(jaxpr.jaxpr):
        sent = [equation for equation in body.eqns if equation.primitive.name == "ppermute"]
        for equation in sent:
            assert all(isinstance(x, Literal) or x in body.invars for x in equation.invars)
        if sent:
            permutes.append(len(sent))
    # One loop forward, with keys and values; one backward, with their gradients too.
    assert permutes == [2, 4]


@pytest.mark.parametrize("kernel", ["xla", StaticKernel()], ids=["dynamic", "static"])
def test_gradients_travel_home_in_the_type_of_the_arrays(kernel):
    """Nothing hides their last hop. Before it their sums are float32: two in the loop, and two that
    its last step is given."""
    mesh = AbstractMesh((8,), ("ring",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(None, "ring")
    attend = jax.shard_map(
        partial(ring_attention_shard, kernel=kernel), mesh=mesh, in_specs=spec, out_specs=spec
    )
    x = jax.ShapeDtypeStruct((1, 64, 2, 8), jnp.bfloat16)
    program = str(jax.make_jaxpr(lambda q, k, v, g: jax.vjp(attend, q, k, v)[1](g))(x, x, x, x))
    sent = re.findall(r":(\w+)\[\S* = ppermute", program)
    assert sent.count("f32") == 4 and set(sent) == {"f32", "bf16"}


def test_nothing_quadratic_is_kept_for_the_backward_pass():
    """Positions are known before the layers run: partial evaluation must not store the masks they
    give."""
    mesh = AbstractMesh((8,), ("ring",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(None, "ring")
    tokens = 256  # a device's: the whole block at once, mask and all

    attend = jax.shard_map(
        ring_attention_shard, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False
    )

    def loss(x):
        layers = jax.lax.scan(
            jax.checkpoint(lambda x, _: (attend(x, x, x), None)), x, None, length=3
        )
        return layers[0].sum()

    x = jax.ShapeDtypeStruct((1, 8 * tokens, 1, 8), np.float32)
    for body in loops(jax.make_jaxpr(jax.grad(loss))(x).jaxpr):
        assert all(
            variable.aval.size < tokens * tokens
            for variable in body.outvars
            if not isinstance(variable, Literal)
        )
