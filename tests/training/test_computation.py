"""What a run says about its devices, its kernel and its precision is what it computes with."""

import jax
import jax.numpy as jnp
import pytest

from agentic_transformer.config import ModelConfig
from agentic_transformer.ring import kernels, select_kernel
from agentic_transformer.training.computation import (
    computation_line,
    describe_attention,
    describe_computation,
)
from agentic_transformer.training.sharding import make_mesh


@pytest.fixture
def mesh():
    return make_mesh(1, jax.devices()[:1])


def test_a_run_says_in_one_line_how_it_computes(mesh):
    config = ModelConfig(width=8, kernel="xla")
    facts = describe_computation("highest", mesh.devices.flatten())
    facts |= describe_attention(config, mesh, one_chain_per_row=True)
    assert facts == {
        "devices": f"1 x {jax.devices()[0].device_kind}",
        "float32_products": "highest",
        "attention": "ring",
        "kernel": "xla: it was asked for",
    }
    line = computation_line(facts)
    assert line.startswith("computes on 1 x ") and line.count("\n") == 0
    assert "float32 products: highest; attention: ring; kernel: xla" in line


def test_precision_that_the_user_has_set_is_said(mesh):
    devices = mesh.devices.flatten()
    with jax.default_matmul_precision("tensorfloat32"):
        assert describe_computation("highest", devices)["float32_products"] == "tensorfloat32"
    assert describe_computation("default", devices)["float32_products"] == "default"


def test_the_fastest_kernel_is_said_with_its_reason(mesh):
    """As `attention` chooses it: its own choice, for the model's type and size of a head."""
    config = ModelConfig(width=16, heads=2, dtype="bfloat16")
    for one_chain in (True, False):
        platform = jax.default_backend()
        expected = kernels.select(None, platform, jnp.bfloat16, 8, static=one_chain).reason
        assert describe_attention(config, mesh, one_chain)["kernel"] + "." == expected


@pytest.mark.parametrize("backbone", ["dense", "memory_efficient"])
def test_backbones_without_blocks_have_no_kernel(mesh, backbone):
    assert describe_attention(ModelConfig(attention=backbone), mesh, False)["kernel"] == "none"


def test_a_choice_needs_no_arrays():
    query = jax.ShapeDtypeStruct((1, 4, 2, 8), jnp.float32)
    assert isinstance(select_kernel(query, kernel="reference").kernel, kernels.ReferenceKernel)
    with pytest.raises(ValueError, match="backbone='rign'.*did you mean 'ring'"):
        select_kernel(query, backbone="rign")
