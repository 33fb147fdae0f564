"""Every kernel conforms to its contract: attention and its gradients, as float64 has them.

A new kernel is added to KERNELS, and gets the whole test. The ring needs no devices: `vmap` over
a named axis runs the collectives of `shard_map` on one.
"""

import dataclasses
import re
from functools import cache, partial
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring import (
    BACKBONES,
    RESIDUAL_NAMES,
    Chunks,
    CPUKernel,
    FusedKernel,
    ReferenceKernel,
    XLAKernel,
    attention,
    blockwise_attention,
    decode_attention,
    dense_attention,
    from_layout,
    memory_efficient_attention,
    ring_attention_shard,
    select,
    select_kernel,
    to_layout,
)
from agentic_transformer.ring.kernels import NAMED, SplashKernel, cudnn
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng
from tests.static_kernel import ReferenceFused, StaticKernel
from tests.tolerances import assert_within, rounding, unit

pytestmark = pytest.mark.slow

SMALL = Chunks(queries=8, keys=4, whole=8)
KERNELS = {
    "reference": ReferenceKernel(),
    "static": StaticKernel(),
    "fused": FusedKernel(ReferenceFused()),
    "fused, tokens first": FusedKernel(ReferenceFused(token_axis=1)),
    "splash": SplashKernel(interpret=True),
    "xla": XLAKernel(),
    "xla in chunks": XLAKernel(SMALL._replace(rows=2)),
    "cpu": CPUKernel(),
    "cpu in chunks": CPUKernel(SMALL, min_tokens_per_head_pass=0),
}

# cuDNN takes 16-bit arrays alone.
ON_GPU = {"cudnn": cudnn.CUDNN_KERNEL} if jax.default_backend() == "gpu" else {}
ALL = KERNELS | ON_GPU

SEQUENCE = 66
# Rows differ: a pair of chunks may be full in one of them and empty in the other.
SEGMENTS = (np.arange(SEQUENCE) // np.array([[40], [7]])).astype(np.int32)

# Name: ring, layout, heads, dtype, mask. Halves of 11 tokens are padded to chunks.
CASES = {
    "one device": (1, "contiguous", (2, 2), "float32", {}),
    "causal zigzag": (3, "zigzag", (4, 2), "float32", {}),
    "causal contiguous": (3, "contiguous", (2, 1), "float16", {}),
    "full": (3, "zigzag", (4, 2), "bfloat16", {"causal": False}),
    "window": (3, "zigzag", (2, 2), "float32", {"window": 9}),
    "tail": (3, "zigzag", (4, 2), "float32", {"length": 37}),
    "length": (3, "contiguous", (2, 2), "float32", {"causal": False, "length": 37}),
    # One key head: rows of both batches are in one chunk of "xla in chunks".
    "segments": (3, "zigzag", (2, 1), "float32", {"segment_ids": SEGMENTS}),
    "all": (3, "zigzag", (4, 2), "bfloat16", {"segment_ids": SEGMENTS, "window": 20, "length": 61}),
}


@cache
def has_float16():
    """Returns whether XLA computes in float16 here: on CPUs without F16C it cannot."""
    try:
        jax.block_until_ready(jax.jit(lambda x: x * 2)(jnp.ones(8, jnp.float16)))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def on_ring(kernel, ring, layout, **mask):
    """Output and gradients of a weighted sum, of arrays in natural order."""
    options = {"axis": "ring" if ring > 1 else None, "layout": layout, "kernel": kernel}

    def split(array):  # (batch, sequence, ...) -> (ring, batch, tokens, ...)
        array = to_layout(array, ring, layout)
        shape = (array.shape[0], ring, -1, *array.shape[2:])
        return jnp.moveaxis(array.reshape(shape), 1, 0)

    def join(array):
        array = jnp.moveaxis(array, 0, 1)
        array = array.reshape(array.shape[0], -1, *array.shape[3:])
        return np.asarray(from_layout(array, ring, layout).astype(jnp.float32), np.float64)

    ids = mask.pop("segment_ids", None)
    ids = None if ids is None else split(ids)

    def shard(query, key, value, weights, ids):
        attend = partial(ring_attention_shard, segment_ids=ids, **options, **mask)
        output, pull = jax.vjp(attend, query, key, value)
        return output, *pull(weights)

    axes = (0, 0, 0, 0, None if ids is None else 0)
    shards = jax.jit(jax.vmap(shard, in_axes=axes, axis_name="ring"))
    return lambda arrays: [join(x) for x in shards(*map(split, arrays), ids)]


def draw(seed, heads, dtype="float32"):
    """Query, key, value and weights; the scores are large enough to tell kernels apart."""
    data = rng(seed)
    # head_dim is a power of 4: kernels that scale 16-bit queries do it exactly.
    shapes = [(2, SEQUENCE, h, 16) for h in (*heads, heads[1], heads[0])]
    query, *arrays = (data.standard_normal(shape, np.float32) for shape in shapes)
    return [jnp.asarray(x, dtype) for x in (3 * query, *arrays)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", ALL)
def test_attention_and_gradients_equal_float64(kernel, case):
    ring, layout, heads, dtype, mask = CASES[case]
    dtype = "bfloat16" if kernel in ON_GPU and dtype == "float32" else dtype
    kernel = ALL[kernel]
    if dtype == "float16" and not has_float16():
        pytest.skip("XLA has no float16 on this CPU")
    arrays = draw(0, heads, dtype)
    causal_only = "window" in mask or ("length" in mask and mask.get("causal") is False)
    if not kernel.supports_dynamic and causal_only:
        with pytest.raises(ValueError, match="kernel=None chooses one that does"):
            on_ring(kernel, ring, layout, **mask)(arrays)
        return
    if not kernel.supports_segments and "segment_ids" in mask:
        with pytest.raises(ValueError, match="supports no segment_ids"):
            on_ring(kernel, ring, layout, **mask)(arrays)
        return
    attend = on_ring(kernel, ring, layout, **mask)
    found = attend(arrays)
    exact, bounds = attention_and_bounds(*map(np.asarray, arrays), **mask, products=dtype)
    assert_attention(found, exact, bounds, dtype)
    if length := mask.get("length"):
        assert not any(x[:, length:].any() for x in found)
        for result, same in zip(
            attend([x.at[:, length:].set(jnp.nan) for x in arrays]), found, strict=True
        ):
            np.testing.assert_array_equal(result, same)


@pytest.mark.parametrize("kernel", ["reference", "xla", "cpu"])
def test_where_a_query_sees_one_key_no_gradient_reaches_scores(kernel):
    """Its weight is 1 whatever the score: what 16-bit arrays give and take is equal in float32."""
    arrays = draw(6, (2, 1), "bfloat16")
    ids = np.tile(np.arange(SEQUENCE, dtype=np.int32), (2, 1))
    _, dquery, dkey, _ = on_ring(KERNELS[kernel], 1, "contiguous", segment_ids=ids)(arrays)
    query, key, value, weights = (np.abs(np.asarray(x, np.float64)) for x in arrays)
    # Two sums of 16 products each, before scores and their difference are scaled.
    off = 2 * rounding(16) * (value * weights).sum(axis=-1, keepdims=True) / 4
    assert_within(dquery, np.zeros_like(dquery), off * key)
    assert_within(dkey, np.zeros_like(dkey), (off * query).sum(axis=2, keepdims=True))


@pytest.mark.parametrize("all_gather", [False, True])
def test_gradients_in_16_bits_are_added_over_the_ring_in_float32(all_gather):
    """Parts of 64, 1/4 and 1/2: in bfloat16, whose numbers above 64 are 1/2 apart, 64 + 1/4 is 64.

    All scores are 0, so each of 64 weights is 1/64, and each device has 8 queries.
    """
    weights = np.repeat([512, 2, 2, 2, 2, 2, 2, 4], 8).reshape(1, 64, 1, 1)
    arrays = [jnp.asarray(np.broadcast_to(x, (1, 64, 1, 8)), jnp.bfloat16) for x in (0, 1, 1)]
    arrays.append(jnp.asarray(np.broadcast_to(weights, (1, 64, 1, 8)), jnp.bfloat16))
    options = {"causal": False, "all_gather": all_gather}
    *_, dvalue = on_ring(KERNELS["fused"], 8, "contiguous", **options)(arrays)
    np.testing.assert_array_equal(dvalue, 64 + 6 / 4 + 1 / 2)


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_have_a_length_each(kernel, layout):
    arrays, lengths = draw(2, (4, 2)), np.array([37, 0])
    found = on_ring(KERNELS[kernel], 3, layout, length=lengths)(arrays)
    for row, length in enumerate(lengths):
        one = [np.asarray(x)[row : row + 1] for x in arrays]
        exact, bounds = attention_and_bounds(*one, length=length)
        assert_attention([x[row : row + 1] for x in found], exact, bounds)


@pytest.mark.parametrize("kernel", ALL)
def test_a_later_token_changes_no_bit(kernel):
    """A large query needs a running maximum; those beside it in a chunk are computed alike."""
    arrays = draw(1, (4, 2), "bfloat16" if kernel in ON_GPU else "float32")
    found = on_ring(ALL[kernel], 3, "zigzag")
    clean = found(arrays)
    for which in range(4):
        changed = list(arrays)
        changed[which] = arrays[which].at[:, 40].multiply(2.0**13)
        for array, same in zip(found(changed)[:2], clean, strict=False):
            np.testing.assert_array_equal(array[:, :40], same[:, :40])


@pytest.mark.parametrize(
    ("at", "entry"), [(40, ()), (5, (0, 3))], ids=["a token", "an entry of a head"]
)
@pytest.mark.parametrize("kernel", ALL)
def test_a_nan_reaches_what_sees_it_and_nothing_else(kernel, at, entry):
    """Within a block and a chunk; the query at 5 sees keys in one step of the ring alone."""
    dtype = "bfloat16" if kernel in ON_GPU else "float32"
    arrays = draw(1, (4, 2), dtype)
    found = on_ring(ALL[kernel], 3, "zigzag")
    clean = found(arrays)
    for which in range(4):
        spoilt = list(arrays)
        spoilt[which] = arrays[which].at[:, at, *entry].set(jnp.nan)
        output, dquery, *gradients = found(spoilt)
        head = entry[:1]
        for array, sees_it in ((output, which < 3), (dquery, True)):
            assert np.isnan(array[:, at, *head]).all() == sees_it
        for array, same in zip((output, dquery), clean, strict=False):
            np.testing.assert_array_equal(array[:, :at], same[:, :at])
        if which in (0, 3):  # the query that is not finite sees the keys up to its own
            for array, same in zip(gradients, clean[2:], strict=True):
                assert np.isnan(array[:, : at + 1, *head]).all()
                np.testing.assert_array_equal(array[:, at + 1 :], same[:, at + 1 :])
        if entry:  # the last head shares no key with the first
            for array, same in zip((output, dquery, *gradients), clean, strict=True):
                np.testing.assert_array_equal(array[:, :, -1], same[:, :, -1])


class StrangeFused(ReferenceFused):
    """Fused attention that gives rows of NaN a log-sum-exp of infinity, as some do."""

    def forward(self, *arrays, causal):
        out, lse = super().forward(*arrays, causal=causal)
        return out, jnp.where(jnp.isnan(lse), jnp.inf, lse)


@pytest.mark.parametrize("ring", [1, 3])
def test_a_log_sum_exp_of_infinity_hides_no_nan(ring):
    arrays = draw(1, (2, 2))
    arrays[1] = arrays[1].at[:, 40].set(jnp.nan)
    found, expected = (
        on_ring(FusedKernel(fused), ring, "zigzag")(arrays)
        for fused in (StrangeFused(), ReferenceFused())
    )
    for array, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isnan(array), np.isnan(same))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kept_output_has_the_entries_of_all_heads_on_its_last_axis(kernel):
    """A TPU pads the last axis to 128 entries, so one head's 64 would take twice the memory."""
    policy = jax.checkpoint_policies.save_only_these_names(*RESIDUAL_NAMES)

    @partial(jax.checkpoint, policy=policy)
    def attend(x):
        query = key = value = x.reshape(2, 12, 3, 8)
        return ring_attention_shard(query, key, value, axis=None, kernel=kernel).reshape(x.shape)

    x = jnp.asarray(rng(3).standard_normal((2, 12, 24)), jnp.bfloat16)
    out, backward = jax.vjp(attend, x)
    kept = [np.asarray(array) for array in jax.tree.leaves(backward)]
    assert {array.shape for array in kept} <= {x.shape, (2, 12, 3), (2, 3, 12)}
    assert any(np.array_equal(array, np.asarray(out)) for array in kept)


@pytest.mark.parametrize("kernel", [CPUKernel(), XLAKernel(Chunks(256, 256, whole=256))])
def test_a_chunk_holds_tokens_of_one_head_and_one_half_of_a_block(kernel):
    """However many heads share a key. Others would be visible to more keys, and take longer."""
    arrays = [jnp.ones((1, 640, heads, 8)) for heads in (4, 1, 1, 4)]

    def gradients(*arrays):
        return jax.vjp(partial(blockwise_attention, kernel=kernel), *arrays[:3])[1](arrays[3])

    program = str(jax.make_jaxpr(gradients)(*arrays))
    shapes = re.findall(r":f32\[([\d,]+)\] = dot_general", program)
    sizes = {int(size) for shape in shapes for size in shape.split(",")}
    # Each half has 320 tokens: two chunks. Beside their sizes are those of heads and whole rows.
    assert {size for size in sizes if 8 < size <= 256} == {160}


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_choice_of_a_kernel_is_explained(platform):
    kernel, reason = select(None, platform, jnp.bfloat16, 64, static=True)
    again = select(None, platform, jnp.bfloat16, 64, static=True)
    assert kernel in {*KERNELS.values(), *NAMED.values()} and hash(kernel) == hash(again.kernel)
    assert type(kernel).__name__ in reason and reason.endswith(".") and "\n" not in reason


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("cudnn", "needs an NVIDIA GPU"),
        ("splash", "needs a TPU"),
        ("flash", "must be a Kernel"),
        (3, "must be a Kernel"),
    ],
)
def test_a_kernel_that_cannot_be_used_is_refused(kernel, said):
    x = jnp.ones((1, 4, 1, 8))
    if kernel == "cudnn" and jax.default_backend() == "gpu":
        said = "needs bfloat16 or float16, not float32"
    with pytest.raises(ValueError, match=said):
        blockwise_attention(x, x, x, kernel=kernel)


@pytest.mark.parametrize(
    "masks",
    [
        {"window": 3},
        {"causal": False, "length": 3},
        {"causal": False, "length": np.array([3])},
        {"segment_ids": np.zeros((1, 4), np.int32)},
    ],
)
def test_a_kernel_of_other_masks_is_refused_before_anything_is_computed(masks):
    """A training run asks before it reads its data. Backbones without a kernel ask for none."""
    x, kernel = jnp.ones((1, 4, 1, 8)), FusedKernel(ReferenceFused())
    for backbone in ("ring", "blockwise"):
        mesh = jax.make_mesh((1,), ("ring",), devices=jax.devices()[:1])
        with pytest.raises(ValueError, match="supports"):
            select_kernel(x, backbone=backbone, mesh=mesh, kernel=kernel, **masks)
    mesh = jax.sharding.AbstractMesh((2,), ("ring",))
    with pytest.raises(ValueError, match="causal all-gather"):
        select_kernel(x, backbone="all_gather", mesh=mesh, kernel=kernel)
    for name in (kernel, "cudnn"):
        assert select_kernel(x, backbone="dense", kernel=name, **masks) is None
        assert attention(x, x, x, backbone="dense", kernel=name, **masks).shape == x.shape


def test_the_private_primitives_of_cudnn_are_as_they_are_called():
    """A new jax may change them; then cuDNN is not used, and this test says so."""
    primitives = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    assert cudnn.signature_problem(primitives) == ""


@dataclasses.dataclass(frozen=True)
class NumberedKernel(ReferenceKernel):
    """A kernel that is another one in each traced call."""

    number: int = 0
    calls = count(1)

    def for_call(self):
        return dataclasses.replace(self, number=next(self.calls))


@pytest.mark.parametrize("traced", range(3))
def test_each_traced_call_of_attention_may_have_a_kernel_of_its_own(traced):
    arrays = [jnp.ones((1, 4, 1, 8))] * 3
    kernel = NumberedKernel()

    def calls(array):
        mixed = [*arrays[:traced], array, *arrays[traced + 1 :]]
        return sum(blockwise_attention(*mixed, kernel=kernel).sum() for _ in range(3))

    before = next(NumberedKernel.calls)
    jax.jit(calls)(arrays[0])
    assert next(NumberedKernel.calls) - before == 1 + 3
    blockwise_attention(*arrays, kernel=kernel)
    assert next(NumberedKernel.calls) - before == 1 + 3 + 1


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ("", False),
        ("--xla_gpu_autotune_level=0 --xla_gpu_exclude_nondeterministic_ops=true", True),
        ("--xla_gpu_deterministic_ops", True),
        ("--xla_gpu_deterministic_ops=false", False),
    ],
)
def test_flags_that_ask_for_determinism(flags, asked):
    assert cudnn.asks_for_determinism(flags) == asked


def test_other_primitives_are_told():
    class Changed:
        MaskType = AttentionLayout = _dot_product_attention_bwd_p_wrapper = None

    assert "dot_product_attention" in cudnn.signature_problem(Changed)


def decode_last(*arrays, **options):
    mesh = jax.make_mesh((1,), ("ring",), devices=jax.devices()[:1])
    return decode_attention(*arrays, jnp.full(arrays[0].shape[:2], 3), mesh=mesh, **options)


ATTENTIONS = {
    **{name: partial(attention, backbone=name, layout="contiguous") for name in BACKBONES},
    "dense_attention": dense_attention,
    "memory_efficient_attention": memory_efficient_attention,
    "ring_attention_shard": partial(ring_attention_shard, axis=None),
    "decode_attention": decode_last,
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_products_have_the_precision_that_was_asked_for(name):
    """Forward and backward, whatever is traced where."""
    x = jnp.ones((1, 4, 1, 8))

    def products(**options):
        """The precisions of all products in the program of a gradient."""

        def loss(x):
            return ATTENTIONS[name](x, x, x, **options).sum()

        text = jax.jit(jax.grad(loss)).lower(x).as_text()
        return set(re.findall(r"dot_general.*?precision = \[(\w+), \w+\]", text))

    assert products() == products(precision="highest") == {"HIGHEST"}
    assert products(precision="default") <= {"DEFAULT"}
    with jax.default_matmul_precision("tensorfloat32"):
        assert "HIGHEST" not in products()
        assert products(precision="highest") == {"HIGHEST"}


@pytest.mark.parametrize("kernel", ["reference", "xla", "cpu"])
def test_gradients_of_scores_in_float16_may_be_tiny(kernel):
    """Those of 1,024 keys are about 1e-6 here: float16 keeps a multiple of 6e-8 of such a number.

    Two numbers are rounded to float16 on the way to a result: the output, from which delta is
    computed, and the result. The norm of what each changes is at most a unit of what it falls on.
    """
    if not has_float16():
        pytest.skip("XLA has no float16 on this CPU")
    draws = (rng(9, n).standard_normal((1, 1024, 1, 16), np.float32) for n in range(4))
    *arrays, weights = (jnp.asarray(x, jnp.float16) for x in draws)
    attend = partial(ring_attention_shard, axis=None, causal=False, kernel=KERNELS[kernel])

    def gradients(*arrays):
        _, pull = jax.vjp(attend, *arrays)
        return pull(jnp.asarray(weights * 2**-7, arrays[0].dtype))

    wide = gradients(*(x.astype(jnp.float32) for x in arrays))
    for found, exact in zip(gradients(*arrays), wide, strict=True):
        error = np.linalg.norm(np.float64(found) - np.float64(exact))
        least = np.sqrt(found.size) * 2**-25  # half of the spacing of the smallest numbers
        assert error <= 2 * unit(np.float16) * np.linalg.norm(exact) + least


@pytest.mark.parametrize(
    "kernel", ["fused, tokens first", "xla in chunks", "cpu in chunks", *ON_GPU]
)
def test_scores_beyond_the_range_of_float16(kernel):
    """Scores reach a million, and float16 ends at 65,504: they are float32 in all kernels."""
    if not has_float16():
        pytest.skip("XLA has no float16 on this CPU")
    query, key, value, weights = draw(3, (4, 2), "float16")
    arrays = [2**8 * query, 2**8 * key, value, weights]
    scores = np.einsum("bqd,bkd->bqk", *(np.float64(x)[:, :, 0] for x in arrays[:2])) / 4
    assert np.abs(scores).max() > np.finfo(np.float16).max
    found = on_ring(ALL[kernel], 3, "zigzag")(arrays)
    exact, bounds = attention_and_bounds(*map(np.asarray, arrays), products="float16")
    assert_attention(found, exact, bounds, "float16")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ALL)
def test_gradients_of_gradients_are_as_exact_as_those_of_dense_attention(kernel):
    """Beyond one chunk, where the kernels loop; against JAX's own derivatives in float64."""
    dtype = "bfloat16" if kernel in ON_GPU else "float32"
    *arrays, weights = draw(7, (2, 1), dtype)
    attend = partial(ring_attention_shard, axis=None, kernel=ALL[kernel])

    def second(attend, *arrays):
        def first(*arrays):
            loss = jax.grad(lambda *arrays: (attend(*arrays) * weights).sum(), (0, 1, 2))
            return sum((x.astype(jnp.float32) ** 2).sum() for x in loss(*arrays))

        return jax.jit(jax.grad(first, (0, 1, 2)))(*arrays)

    found, plain = second(attend, *arrays), second(dense_attention, *arrays)
    with jax.enable_x64(True):
        exact = second(dense_attention, *(jnp.asarray(x, jnp.float64) for x in arrays))
    for result, ours, theirs in zip(map(np.asarray, exact), found, plain, strict=True):
        assert result.dtype == np.float64
        error, other = (np.linalg.norm(np.float64(x) - result) for x in (ours, theirs))
        # Both are sums of the same terms, in another order and grouping.
        assert error <= 8 * other + 8 * unit(dtype) * np.linalg.norm(result)
