"""Ring attention on several devices against attention in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from jax.sharding import AxisType

from agentic_transformer.ring import (
    BACKBONES,
    LAYOUTS,
    Chunks,
    CPUKernel,
    FusedKernel,
    attention,
    dense_attention,
    from_layout,
    ring_attention,
    to_layout,
)
from agentic_transformer.ring.kernels.cudnn import CUDNN_KERNEL
from tests.attention_float64 import assert_attention, attention_and_bounds, attention_float64
from tests.seeds import SEED, rng
from tests.static_kernel import ReferenceFused
from tests.tolerances import SIGMAS

pytestmark = pytest.mark.slow

# Small chunks, and rows that go around the ring one after another, as they do in long sequences.
SMALL = CPUKernel(Chunks(queries=32, keys=64, whole=32), min_tokens_per_head_pass=0)


def make_mesh(ring: int, data: int = 1) -> jax.sharding.Mesh:
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(
        (data, ring), ("data", "ring"), axis_types=axes, devices=jax.devices()[: ring * data]
    )


def with_gradients(function, query, key, value, weights):
    """Output and gradients of a weighted sum of the outputs."""
    output, pull = jax.vjp(jax.jit(function), query, key, value)
    return output, *pull(weights)


def draw(data, batch, sequence, heads, key_heads, head_dim):
    return [
        data.standard_normal((batch, sequence, h, head_dim), np.float32)
        for h in (heads, key_heads, key_heads, heads)
    ]


def in_order(results, ring, layout, length=None):
    """Results in natural order and float64."""
    return [
        np.asarray(from_layout(np.asarray(x), ring, layout, length=length), np.float64)
        for x in results
    ]


def root_mean_squares(results, reference):
    return np.array(
        [np.sqrt(np.mean((x - y) ** 2)) for x, y in zip(results, reference, strict=True)]
    )


def test_exact_at_4096_tokens_on_8_devices():
    """Each number within what float32 allows it, and their errors together no larger than dense
    attention has them.

    A root mean square over a million errors hardly varies; how a processor's products are summed
    may change it by a part, of both alike. A factor of 1.5 is far less than any fault gives: of the
    scale, of one key, of a sum in bfloat16.
    """
    arrays = draw(rng(2), 1, 4096, 4, 4, 64)
    exact, bounds = attention_and_bounds(*arrays)
    dense = root_mean_squares(
        in_order(with_gradients(dense_attention, *arrays), 1, "contiguous"), exact
    )
    for layout in LAYOUTS:
        placed = [to_layout(x, 8, layout) for x in arrays]
        results = with_gradients(partial(ring_attention, mesh=make_mesh(8), layout=layout), *placed)
        found = in_order(results, 8, layout)
        assert_attention(found, exact, bounds)
        assert (root_mean_squares(found, exact) <= 1.5 * dense).all()


@pytest.mark.parametrize("ring", [1, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_token_changes_no_output_before_it(ring, layout):
    """By exactly 0, also when it is so large that other tokens would be rounded otherwise if any of
    them were computed for it."""
    query, key, value, _ = draw(rng(0), 1, 2048, 2, 1, 64)
    changed = 1024 + 37  # within a chunk, so that tokens before it share its products
    attend = jax.jit(partial(ring_attention, mesh=make_mesh(ring), layout=layout))

    def outputs(*arrays):
        return from_layout(
            np.asarray(attend(*(to_layout(x, ring, layout) for x in arrays))), ring, layout
        )

    before = outputs(query, key, value)
    for change in (0.25, 1e3, -1e4):
        arrays = [x.copy() for x in (query, key, value)]
        for array in arrays:
            array[:, changed] += change
        after = outputs(*arrays)
        np.testing.assert_array_equal(after[:, :changed], before[:, :changed])
        assert np.abs(after[:, changed] - before[:, changed]).min() > 0


@st.composite
def problems(draw_):
    key_heads, group = draw_(st.integers(1, 2)), draw_(st.integers(1, 3))
    length = draw_(st.integers(1, 300))
    causal = draw_(st.booleans())
    return {
        "ring": draw_(st.sampled_from([1, 2, 3, 4, 8])),
        "layout": draw_(st.sampled_from(LAYOUTS)),
        "kernel": draw_(st.sampled_from([SMALL, None])),
        "shape": (
            draw_(st.integers(1, 2)),
            length,
            key_heads * group,
            key_heads,
            draw_(st.sampled_from([4, 16])),
        ),
        "causal": causal,
        "window": draw_(st.none() | st.integers(1, length)) if causal else None,
        "segments": draw_(st.sampled_from([0, 1, 4])),
        "sorted": draw_(st.booleans()),
        "seed": draw_(st.integers(0, 99)),
    }


@with_seed(SEED)
@settings(max_examples=12, deadline=None, database=None)
@given(problems())
def test_any_problem_equals_dense(problem):
    data = rng(problem["seed"])
    ring, layout, (batch, length, *_) = problem["ring"], problem["layout"], problem["shape"]
    arrays = draw(data, *problem["shape"])
    segments = None
    if problem["segments"]:
        segments = data.integers(0, problem["segments"], (batch, length)).astype(np.int32)
        segments = np.sort(segments, axis=1) if problem["sorted"] else segments
    shared = {"causal": problem["causal"], "window": problem["window"]}
    exact, bounds = attention_and_bounds(*arrays, segment_ids=segments, **shared)
    # What pads the sequence is anything but harmless.
    placed = [to_layout(x, ring, layout, fill=7.0) for x in arrays]
    placed_segments = None if segments is None else to_layout(segments, ring, layout)
    attend = partial(
        ring_attention,
        mesh=make_mesh(ring),
        layout=layout,
        segment_ids=placed_segments,
        length=length,
        kernel=problem["kernel"],
        **shared,
    )
    results = with_gradients(attend, *placed)
    assert_attention(in_order(results, ring, layout, length), exact, bounds)
    padding = from_layout(np.asarray(results[0]), ring, layout)[:, length:]
    assert not padding.any()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_backbones_agree_on_a_mesh_with_a_batch_axis(backbone, layout):
    data = rng(1)
    arrays = draw(data, 4, 90, 4, 2, 8)
    segments = np.sort(data.integers(0, 3, (4, 90)), axis=1)
    exact, bounds = attention_and_bounds(*arrays, segment_ids=segments, window=40)
    placed = [to_layout(x, 4, layout) for x in arrays]
    attend = partial(
        attention,
        backbone=backbone,
        mesh=make_mesh(4, 2),
        batch_axis="data",
        layout=layout,
        segment_ids=to_layout(segments, 4, layout),
        window=40,
        length=90,
    )
    results = with_gradients(attend, *placed)
    assert_attention(in_order(results, 4, layout, 90), exact, bounds)
    # Each device computes rows of its own.
    assert all(x.sharding.shard_shape(x.shape)[0] == 2 for x in results)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fused_calls_on_any_ring_equal_float64(layout, causal):
    """The calls that a GPU gets, computed by a reference of the same signature."""
    arrays = draw(rng(5), 1, 240, 4, 2, 8)
    exact, bounds = attention_and_bounds(*arrays, causal=causal)
    kernel = FusedKernel(ReferenceFused(token_axis=CUDNN_KERNEL.token_axis))
    for ring in (1, 2, 3, 4, 5, 8):
        options = {"mesh": make_mesh(ring), "layout": layout, "causal": causal}
        attend = partial(ring_attention, kernel=kernel, **options)
        placed = [to_layout(x, ring, layout) for x in arrays]
        assert_attention(in_order(with_gradients(attend, *placed), ring, layout), exact, bounds)


def test_queries_that_see_nothing_give_zero_and_finite_gradients():
    arrays = draw(rng(2), 1, 64, 2, 2, 8)
    for kernel in (SMALL, None):
        attend = partial(ring_attention, mesh=make_mesh(4), length=0, kernel=kernel)
        for result in with_gradients(attend, *arrays):
            assert not np.asarray(result).any()


def test_error_of_bfloat16_does_not_grow_with_the_ring():
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in draw(rng(3), 1, 1024, 2, 2, 32)]
    reference = attention_float64(*arrays)
    found = []
    for ring in (1, 2, 8):
        placed = [to_layout(x, ring, "zigzag") for x in arrays]
        results = with_gradients(partial(ring_attention, mesh=make_mesh(ring)), *placed)
        assert all(x.dtype == jnp.bfloat16 for x in results)
        found.append(root_mean_squares(in_order(results, ring, "zigzag"), reference))
    # The errors of one query's outputs come from its weights: 2,048 of them are independent.
    for ours in found[1:]:
        assert (ours <= (1 + SIGMAS / np.sqrt(2048)) * found[0]).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shape": (1, 100, 4, 4, 8)}, "to_layout pads it to 104"),
        ({"shape": (1, 64, 4, 3, 8)}, r"\[1, 2, 4\] would fit"),
        ({"axis": "rign"}, "did you mean 'ring'"),
        ({"batch_axis": "dat"}, "did you mean 'data'"),
        ({"shape": (3, 64, 4, 4, 8), "batch_axis": "data"}, "4 would fit"),
        ({"layout": "zig"}, "did you mean 'zigzag'"),
        ({"window": 4, "causal": False}, "causal=False"),
        ({"window": 0}, "window=0"),
        ({"segment_ids": np.zeros((1, 3), int)}, r"\(1, 64\)"),
    ],
)
def test_what_cannot_work_says_what_would(change, named):
    change = dict(change)
    query, key, value, _ = draw(rng(4), *change.pop("shape", (1, 64, 4, 4, 8)))
    with pytest.raises(ValueError, match=named):
        ring_attention(query, key, value, mesh=make_mesh(4, 2), **change)
