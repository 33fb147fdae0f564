"""Splash attention, computed on a CPU by Pallas's interpreter; see also `test_kernels.py`."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from agentic_transformer.ring import XLAKernel, blockwise_attention, select, select_kernel
from agentic_transformer.ring.kernels import SplashKernel, splash
from agentic_transformer.ring.kernels.splash_mask import quick_mask
from agentic_transformer.ring.masks import KeyPositions, Mask, MaskKind, query_intervals
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.ring.test_kernels import on_ring
from tests.seeds import rng
from tests.tolerances import unit

KERNEL = SplashKernel(interpret=True)


def draw(sequence, head_dim=16, dtype="float32"):
    """Query, key, value and weights; the scores are large enough to tell keys apart."""
    data = rng(3)
    shapes = [(1, sequence, heads, head_dim) for heads in (2, 1, 1, 2)]
    query, *arrays = (data.standard_normal(shape, np.float32) for shape in shapes)
    return [jnp.asarray(x, dtype) for x in (3 * query, *arrays)]


def test_the_private_functions_are_as_they_are_called():
    """A new jax may change them; then splash attention is not used, and this test says so."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    assert splash.signature_problem(splash_attention_kernel) == ""


def test_other_functions_are_told():
    class Changed:
        def _splash_attention_bwd_dq(self, query):
            pass

    assert "_splash_attention_bwd_dq takes" in splash.signature_problem(Changed)
    assert "_splash_attention_bwd_dq" in splash.signature_problem(object)


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "said"),
    [
        ("tpu", "bfloat16", 64, None),
        ("tpu", "float32", 80, None),
        ("cpu", "bfloat16", 64, "needs a TPU, and the devices are cpu"),
        ("tpu", "float16", 64, "needs bfloat16 or float32, not float16"),
        ("tpu", "bfloat16", 512, "head_dim of at most 256, not 512"),
    ],
)
def test_where_it_cannot_be_called_it_says_why(platform, dtype, head_dim, said):
    problem = splash.why_not(platform, dtype, head_dim)
    assert said in problem if said else problem == ""


@pytest.mark.parametrize(
    ("masks", "chosen"),
    [
        ({"static": True}, SplashKernel()),
        ({"static": True, "segments": True}, SplashKernel()),
        ({"static": True, "window": True}, SplashKernel()),
        ({"static": False}, XLAKernel()),
    ],
)
def test_it_is_chosen_on_tpus_where_its_masks_suffice(masks, chosen):
    assert select(None, "tpu", jnp.bfloat16, 64, **masks).kernel == chosen
    kernel, reason = select(None, "tpu", jnp.float16, 64, **masks)
    assert kernel == XLAKernel() and "not splash" in reason


@pytest.mark.parametrize("block", [128, 256])
@pytest.mark.parametrize("window", [None, 1, 2, 127, 128, 129, 300, 2000])
def test_corners_of_blocks_tell_what_a_mask_hides(window, block):
    """Splash attention reads the same from the quick mask as from jax's own."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    kind, settings = ("CausalMask", ()) if window is None else ("LocalMask", ((window - 1, 0), 0))
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")

    def read(mask):
        attend = splash_attention.make_splash_mha(
            splash_attention.MultiHeadMask([mask((1024, 1024), *settings)]),
            block_sizes=splash_attention.BlockSizes(**dict.fromkeys(names, block)),
            head_shards=1,
            q_seq_shards=1,
        )
        return [attend.fwd_mask_info, attend.dq_mask_info, attend.dkv_mask_info]

    quick, plain = quick_mask(kind), getattr(splash_attention, kind)
    assert quick is not plain
    jax.tree.map(np.testing.assert_array_equal, read(quick), read(plain))


@dataclass(frozen=True)
class TPU:
    """What a mesh asks of a device."""

    id: int
    platform: str = "tpu"
    process_index: int = 0
    device_kind: str = "TPU"


def test_it_has_windows_on_one_device_of_a_mesh_only():
    x = jax.ShapeDtypeStruct((1, 4, 1, 64), jnp.bfloat16)
    mesh = Mesh(np.array([TPU(0), TPU(1)]), ("ring",))
    choose = partial(select_kernel, x, mesh=mesh, window=3)
    assert choose().kernel == XLAKernel()
    assert choose(backbone="blockwise").kernel == SplashKernel()


def test_windows_on_a_ring_are_refused():
    x = jnp.ones((1, 4, 1, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match="no window on a ring"):
        on_ring(KERNEL, 2, "contiguous", window=3)([x] * 4)


def equations(jaxpr):
    """All equations of a program, those of its inner programs among them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize("precision", ["highest", "default", "tensorfloat32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_compiles_for_tpus_in_the_precision_that_was_asked_for(dtype, precision):
    """As far as that goes without a TPU's compiler, which knows two precisions, for 16 bits one."""
    x = jnp.ones((1, 8, 1, 16), dtype)

    def loss(x):
        with jax.default_matmul_precision(precision):
            return blockwise_attention(x, x, x, kernel=SplashKernel()).sum()

    traced = jax.jit(jax.grad(loss)).trace(x)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("tpu_custom_call") == 3  # forward, dquery, dkey and dvalue
    calls = [e for e in equations(traced.jaxpr.jaxpr) if e.primitive.name == "pallas_call"]
    products = [
        e for c in calls for e in equations(c.params["jaxpr"]) if e.primitive.name == "dot_general"
    ]
    is_default = dtype == "bfloat16" or precision == "default"
    expected = jax.lax.Precision.DEFAULT if is_default else jax.lax.Precision.HIGHEST
    assert len(products) == 9 and {e.params["precision"] for e in products} == {(expected,) * 2}


@pytest.mark.slow
def test_half_a_block_of_keys_is_padded_where_the_queries_need_no_padding():
    """As in zigzag order, where all queries of a device see the lower half of another's keys."""
    arrays = draw(128)[:3]
    arrays = arrays[0], *(x[:, :64] for x in arrays[1:])
    query, key, value = (x.swapaxes(1, 2) for x in arrays)
    queries = query_intervals(64 + jnp.arange(128), None, causal=False, window=None, length=None)
    mask = Mask(MaskKind.FULL, queries, KeyPositions(jnp.arange(64), None))
    output, _ = KERNEL.finish(KERNEL.forward(None, query, key, value, mask), query)
    exact, bounds = attention_and_bounds(*arrays, causal=False)
    assert_attention([output.swapaxes(1, 2)], exact, bounds)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask",
    [
        {"window": 140},
        {"window": 40, "length": 250, "segment_ids": np.arange(300)[None] // 20 % 2},
        {"causal": False, "segment_ids": np.arange(300)[None] // 130},
    ],
    ids=["window", "all", "full"],
)
def test_one_device_has_windows_and_skips_blocks(mask):
    """Sequences of three blocks, the last of them padded."""
    arrays = draw(300)
    mask = {k: v.astype(np.uint32) if k == "segment_ids" else v for k, v in mask.items()}
    found = on_ring(KERNEL, 1, "contiguous", **mask)(arrays)
    exact, bounds = attention_and_bounds(*arrays, **mask)
    assert_attention(found, exact, bounds)


@pytest.mark.slow
@pytest.mark.parametrize("segments", [False, True], ids=["", "segments"])
@pytest.mark.parametrize(("causal", "ring"), [(True, 1), (True, 2), (False, 2)])
def test_very_long_arrays_are_cut_into_calls(causal, ring, segments, monkeypatch):
    """Here those of more than 64 tokens; the last piece is shorter."""
    monkeypatch.setattr(splash, "_MAX_TOKENS", 64)
    arrays, mask = draw(152), {"causal": causal}
    if segments:
        mask["segment_ids"] = np.arange(152)[None] // 85
    found = on_ring(KERNEL, ring, "zigzag", **mask)(arrays)
    assert_attention(found, *attention_and_bounds(*arrays, **mask))


def test_no_segment_id_is_taken_for_that_of_padding():
    """Not even the smallest integer. The block of 40 tokens is padded."""
    *arrays, _ = draw(40)
    ids = jnp.full((1, 40), -(2**31), jnp.int32)
    output = blockwise_attention(*arrays, causal=False, segment_ids=ids, kernel=KERNEL)
    exact, bounds = attention_and_bounds(*arrays, causal=False)
    assert_attention([output], exact, bounds)


@pytest.mark.slow
def test_sixteen_bit_queries_are_rounded_once_more_where_the_root_is_inexact():
    """The result is that of the rounded query, and of nothing else."""
    arrays = draw(40, head_dim=8, dtype="bfloat16")
    found = on_ring(KERNEL, 1, "contiguous")(arrays)
    rounded = (np.asarray(arrays[0], np.float32) * np.float32(8**-0.5)).astype(jnp.bfloat16)
    multiplied = np.asarray(rounded, np.float64) * 8**0.5
    assert np.abs(multiplied / np.asarray(arrays[0], np.float64) - 1).max() <= 1.01 * unit(
        "bfloat16"
    )
    exact, bounds = attention_and_bounds(multiplied, *arrays[1:], products="bfloat16")
    assert_attention(found, exact, bounds, "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_a_nan_reaches_what_sees_it_and_nothing_else(causal):
    """In segments that alternate, so that a block holds queries of all kinds."""
    arrays, at, ids = draw(160), 40, np.arange(160, dtype=np.int32)[None] % 3
    found = on_ring(KERNEL, 1, "contiguous", causal=causal, segment_ids=ids)
    clean = found(arrays)
    same = ids[0] == ids[0, at]
    sees_it = same & (np.arange(160) >= at) if causal else same
    itself = np.arange(160) == at
    seen_by_it = same & (np.arange(160) <= at) if causal else same
    beside_it = same  # some query that is NaN sees the key
    # Which of output, dquery, dkey and dvalue are NaN where query, key, value or weights are.
    spread = {
        0: (itself, itself, seen_by_it, seen_by_it),
        1: (sees_it, sees_it, beside_it, beside_it),
        2: (sees_it, sees_it, beside_it, beside_it),
        3: (np.zeros(160, bool), itself, seen_by_it, seen_by_it),
    }
    for which, expected in spread.items():
        spoilt = list(arrays)
        spoilt[which] = arrays[which].at[:, at].set(jnp.nan)
        for result, was, where in zip(found(spoilt), clean, expected, strict=True):
            assert np.isnan(result[:, where]).all()
            np.testing.assert_array_equal(result[:, ~where], was[:, ~where])
