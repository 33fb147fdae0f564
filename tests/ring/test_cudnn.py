"""How cuDNN is called, and where it is chosen, with plain functions in place of jax's primitives.

They have the signatures that `test_kernels.py` compares with those of the installed jax.
"""

import enum
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from agentic_transformer.ring import XLAKernel, ring_attention_shard, select
from agentic_transformer.ring.kernels import cudnn
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.ring.test_kernels import SEQUENCE, draw, on_ring
from tests.static_kernel import ReferenceFused

FUSED = ReferenceFused(token_axis=1)
MaskType = enum.Enum("MaskType", ["NO_MASK", "CAUSAL"])


def scaled(query, scale):
    """The query whose product with keys, over the root of head_dim, has another scale."""
    return query * (scale * query.shape[-1] ** 0.5)


def forward(query, key, value, *, scale, mask_type, qkv_layout, return_residual):
    assert (qkv_layout, return_residual) == ("BTNH", True)
    causal = mask_type is MaskType.CAUSAL
    out, lse = FUSED.forward(scaled(query, scale), key, value, causal=causal)
    return out, lse.swapaxes(1, 2)  # (batch, heads, tokens)


def backward(query, key, value, *operands, scale, mask_type, layout, **_):
    *unused, activation, out, cotangent = operands
    assert layout == "BTNH" and len(unused) == 7 and not any(x.size for x in unused)
    lse, causal = activation.swapaxes(1, 2), mask_type is MaskType.CAUSAL
    arrays = scaled(query, scale), key, value, out, lse, cotangent
    dquery, dkey, dvalue = FUSED.backward(*arrays, causal=causal)
    return scaled(dquery, scale), dkey, dvalue


@pytest.fixture
def primitives(monkeypatch):
    stand_in = SimpleNamespace(
        MaskType=MaskType,
        AttentionLayout=SimpleNamespace(BTNH=SimpleNamespace(value="BTNH")),
        dot_product_attention=forward,
        _dot_product_attention_bwd_p_wrapper=SimpleNamespace(bind=backward),
    )
    monkeypatch.setattr(cudnn, "_primitives", lambda: stand_in)
    monkeypatch.setattr(cudnn, "_takes_score_mod", lambda: False)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_calls_on_a_ring_equal_float64(primitives, causal):
    arrays = draw(4, (4, 2))
    found = on_ring(cudnn.CUDNN_KERNEL, 3, "zigzag", causal=causal)(arrays)
    assert_attention(found, *attention_and_bounds(*arrays, causal=causal))


@pytest.mark.slow
def test_calls_within_a_vmap_and_a_shard_map_equal_float64(primitives):
    """Both rows of queries have the same keys; the axis of the vmap is no first one."""
    query, key, value, weights = draw(5, (2, 1))
    pair = [x[:1] for x in (key, value)]
    attend = partial(ring_attention_shard, kernel=cudnn.CUDNN_KERNEL)
    mesh = jax.make_mesh((1,), ("ring",), devices=jax.devices()[:1])
    whole = PartitionSpec()
    mapped = jax.shard_map(
        jax.vmap(attend, in_axes=(1, None, None), out_axes=1),
        mesh=mesh,
        in_specs=whole,
        out_specs=whole,
    )
    output, pull = jax.vjp(jax.jit(mapped), query[None], *pair)
    dquery, *gradients = pull(weights[None])
    exact, bounds = (
        [*results[:2], *(x.sum(axis=0, keepdims=True) for x in results[2:])]
        for results in attention_and_bounds(query, *(x.repeat(2, 0) for x in pair), weights)
    )
    assert_attention([output[0], dquery[0], *gradients], exact, bounds)
    assert output.shape == (1, 2, SEQUENCE, 2, 16)


def test_the_axis_of_a_vmap_is_folded_into_the_batch(primitives):
    query, key, value, _ = draw(5, (2, 1))
    forward = partial(cudnn.CUDNN_KERNEL.fused.forward, causal=True)
    mapped = jax.shard_map(
        jax.vmap(forward, in_axes=(1, None, None), out_axes=1),
        mesh=jax.make_mesh((1,), ("ring",), devices=jax.devices()[:1]),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
    )
    output, _ = mapped(jnp.stack([query, 2 * query], axis=1), key, value)
    for n in range(2):
        exact = attention_and_bounds((1 + n) * query, key, value)
        assert_attention([output[:, n]], *exact)


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "said"),
    [
        ("gpu", "bfloat16", 64, None),
        ("cuda", "float16", 128, None),
        ("tpu", "bfloat16", 64, "needs an NVIDIA GPU, and the devices are tpu"),
        ("gpu", "float32", 64, "needs bfloat16 or float16, not float32"),
        ("gpu", "bfloat16", 60, "multiple of 8 up to 128, not 60"),
        ("gpu", "bfloat16", 136, "multiple of 8 up to 128, not 136"),
    ],
)
def test_where_it_cannot_be_called_it_says_why(monkeypatch, platform, dtype, head_dim, said):
    monkeypatch.setattr(cudnn, "_missing", lambda: "")
    problem = cudnn.why_not(platform, dtype, head_dim)
    assert said in problem if said else problem == ""


@pytest.mark.parametrize(
    ("version", "said"), [(91001, "it needs cuDNN 9.10.2, not 91001"), (91002, "")]
)
def test_earlier_versions_are_not_called(primitives, monkeypatch, version, said):
    monkeypatch.setattr(cudnn, "signature_problem", lambda primitives: "")
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")  # it compiles for GPUs elsewhere
    cudnn._primitives().check_cudnn_version = lambda: version
    assert cudnn._missing.__wrapped__() == said


@pytest.mark.parametrize(
    ("masks", "chosen"),
    [
        ({"static": True}, cudnn.CUDNN_KERNEL),
        ({"static": False}, XLAKernel()),
        ({"static": True, "segments": True}, XLAKernel()),
        ({"static": True, "window": True}, XLAKernel()),
    ],
)
def test_it_is_chosen_on_gpus_where_its_masks_suffice(monkeypatch, masks, chosen):
    monkeypatch.setattr(cudnn, "_missing", lambda: "")
    assert select(None, "gpu", jnp.bfloat16, 64, **masks).kernel == chosen
