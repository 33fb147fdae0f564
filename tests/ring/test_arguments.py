"""Arguments that cannot work end in one ValueError that says what is allowed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring import (
    BACKBONES,
    Chunks,
    CPUKernel,
    XLAKernel,
    attention,
    blockwise_attention,
    blockwise_feedforward,
    decode_attention,
    dense_attention,
    from_layout,
    memory_efficient_attention,
    padded_length,
    positions,
    ring_attention,
    ring_attention_shard,
    select,
    select_kernel,
    to_layout,
    write_cache,
)
from agentic_transformer.ring.kernels.cudnn import capability_problem
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng

BATCH, SEQUENCE, HEADS, HEAD_DIM = 2, 8, 2, 4
X = rng().standard_normal((BATCH, SEQUENCE, HEADS, HEAD_DIM), np.float32)
IDS = np.zeros((BATCH, SEQUENCE), np.int32)
MESH = jax.make_mesh((1,), ("ring",), devices=jax.devices()[:1])


def refuses(named, function, *args, **kwargs):
    with pytest.raises(ValueError, match=named) as error:
        function(*args, **kwargs)
    message = str(error.value)
    assert message.count("\n") < 3 and len(message) < 400


def with_(position, array):
    """The arrays (query, key, value), one of them replaced."""
    return [array if n == position else X for n in range(3)]


ATTENTIONS = {
    "attention": attention,
    "ring_attention": lambda *args, **kwargs: ring_attention(*args, mesh=MESH, **kwargs),
    "blockwise_attention": blockwise_attention,
    "dense_attention": dense_attention,
    "memory_efficient_attention": memory_efficient_attention,
    "ring_attention_shard": lambda *args, **kwargs: ring_attention_shard(
        *args, axis=None, **kwargs
    ),
}


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize(
    ("named", "arrays", "setting"),
    [
        ("query is int32; .* float32", with_(0, X.astype(np.int32)), {}),
        ("key is complex64", with_(1, X.astype(np.complex64)), {}),
        ("value is bool", with_(2, X > 0), {}),
        ("query is object", with_(0, X.astype(object)), {}),
        ("one dtype", with_(1, X.astype(np.float16)), {}),
        ("query is .*array", with_(0, X.tolist()), {}),
        ("query has shape", with_(0, X[0]), {}),
        ("same shape", with_(2, X[..., :2]), {}),
        ("must have the batch and head_dim of query", [X, X[..., :2], X[..., :2]], {}),
        ("must have the batch, sequence", [X, X[:, :4], X[:, :4]], {}),
        ("each at least 1", [X[..., :0]] * 3, {}),
        ("each at least 1", [X[:0]] * 3, {}),
        ("each at least 1", [X[:, :0]] * 3, {}),
        ("segment_ids is float32", [X] * 3, {"segment_ids": IDS.astype(np.float32)}),
        ("query is >f4; .* float32", [X.astype(">f4")] * 3, {}),
        ("segment_ids is >i4", [X] * 3, {"segment_ids": IDS.astype(">i4")}),
        ("segment_ids is bool", [X] * 3, {"segment_ids": IDS == 0}),
        (r"segment_ids .* = \(2, 8\)", [X] * 3, {"segment_ids": IDS[0]}),
        ("segment_ids .* list", [X] * 3, {"segment_ids": [list(range(30))] * 2}),
        ("segment_ids has values", [X] * 3, {"segment_ids": IDS + np.int64(2) ** 32}),
        ("length=5.0 must be a whole", [X] * 3, {"length": 5.0}),
        ("length=True must be a whole", [X] * 3, {"length": True}),
        ("length=-1 is outside 0..8", [X] * 3, {"length": -1}),
        ("length=9 is outside 0..8", [X] * 3, {"length": 9}),
        ("length=.* must be a whole", [X] * 3, {"length": [5, 6]}),
        (r"length .* = \(2,\)", [X] * 3, {"length": np.array([5, 6, 7])}),
        (r"length .* = \(2,\)", [X] * 3, {"length": np.array([[5], [6]])}),
        ("length is float64", [X] * 3, {"length": np.array([5.0, 6.0])}),
        ("length is float32", [X] * 3, {"length": jnp.float32(5)}),
        ("length has values in 5..9", [X] * 3, {"length": np.array([5, 9])}),
        ("window=0", [X] * 3, {"window": 0}),
        ("window=-3", [X] * 3, {"window": -3}),
        ("window=2.0", [X] * 3, {"window": 2.0}),
        ("window=True", [X] * 3, {"window": True}),
        ("window=2 needs causal", [X] * 3, {"window": 2, "causal": False}),
        ("causal='false'", [X] * 3, {"causal": "false"}),
        ("causal=0", [X] * 3, {"causal": 0}),
    ],
)
def test_attention(name, named, arrays, setting):
    refuses(named, ATTENTIONS[name], *arrays, **setting)


@pytest.mark.parametrize(
    "name", ["attention", "ring_attention", "blockwise_attention", "ring_attention_shard"]
)
def test_attention_by_a_kernel(name):
    refuses("kernel='cpus' must be a Kernel", ATTENTIONS[name], X, X, X, kernel="cpus")
    odd = X[:, :7]
    refuses("7|even", ATTENTIONS[name], odd, odd, odd)


def test_where_attention_is_computed():
    refuses("mesh=.* must be", ring_attention, X, X, X, mesh=4)
    refuses("needs a mesh", ring_attention, X, X, X, mesh=None)
    refuses("did you mean 'ring'", ring_attention, X, X, X, mesh=MESH, axis="rings")
    refuses("batch_axis=.*tuple", ring_attention, X, X, X, mesh=MESH, batch_axis=["ring"])
    refuses("batch_axis='rong'.*'ring'", ring_attention, X, X, X, mesh=MESH, batch_axis="rong")
    refuses("both", ring_attention, X, X, X, mesh=MESH, batch_axis="ring")
    twice = ("data", "data")
    refuses("tuple of different ones", ring_attention, X, X, X, mesh=MESH, batch_axis=twice)
    refuses("around this call", ring_attention_shard, X, X, X)
    refuses("all_gather='no'", ring_attention_shard, X, X, X, axis=None, all_gather="no")
    for axis in (-1, slice(3), np.zeros(2)):
        refuses("axis=.* is no axis", ring_attention_shard, X, X, X, axis=axis)


@pytest.mark.parametrize("attend", [dense_attention, memory_efficient_attention])
def test_the_layout_of_attention_without_a_mesh(attend):
    refuses("each of 3 .* multiple of 6; to_layout pads it to 12", attend, X, X, X, ring_size=3)
    refuses("ring_size=0 is less", attend, X, X, X, ring_size=0)
    refuses("ring_size=.* must be a whole", attend, X, X, X, ring_size=np.zeros(2, int))
    refuses("layout=.* is not one of", attend, X, X, X, layout=["zigzag"])


@pytest.mark.slow
def test_what_is_allowed():
    """Other integers, flags and numbers of numpy and of JAX mean what Python's mean."""
    expected = attention(X, X, X, segment_ids=IDS, length=5, window=3)
    integers = [(IDS.astype(np.int8), np.uint8(5)), (IDS.astype(np.uint32), np.array(5))]
    integers += [
        (jnp.asarray(IDS), jnp.int32(5)),
        (IDS.astype(np.int64), np.array([5, 5], np.uint32)),
    ]
    for ids, length in integers:
        setting = {"window": np.int64(3), "causal": np.bool_(True)}
        found = attention(X, X, X, segment_ids=ids, length=length, **setting)
        np.testing.assert_allclose(
            found, expected, atol=1e-6
        )  # the same sums of at most 3 values below 4
    for backbone in BACKBONES:
        none = attention(X, X, X, backbone=backbone, length=np.uint32(0))
        assert not np.asarray(none).any()
    # As everywhere in JAX, float64 of numpy is float32 unless jax_enable_x64 is set.
    double = X.astype(np.float64)
    np.testing.assert_array_equal(attention(double, double, double), attention(X, X, X))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lengths_outside_of_the_sequence_act_as_the_nearest(backbone):
    """Those at the ends of their types, too, of all rows and of each."""
    exact, bounds = attention_and_bounds(X, X, X)
    for dtype in ("uint8", "int8", "uint32", "int32"):
        ends = jnp.iinfo(dtype)
        for shape in ((), (BATCH,)):
            attend = partial(attention, X, X, X, backbone=backbone)
            found = attend(length=jnp.full(shape, ends.max, dtype))
            assert_attention([found], exact, bounds)
            assert not np.asarray(attend(length=jnp.full(shape, ends.min, dtype))).any()


POSITION = np.full((BATCH, 1), 3, np.int32)


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("position is float32", {"position": POSITION.astype(np.float32)}),
        ("position is bool", {"position": POSITION > 0}),
        (r"position .* = \(2, 1\)", {"position": POSITION[:, 0]}),
        ("position has values in 8..8", {"position": POSITION + 5}),
        (r"position is \[\[3\], \[3\]\]", {"position": [[3], [3]]}),
        ("query is int32", {"query": X[:, :1].astype(np.int32)}),
        ("key float16, value float32", {"key": X.astype(np.float16)}),
        ("key is int8", {"key": X.astype(np.int8), "value": X.astype(np.int8)}),
        ("batch and head_dim", {"query": X[:1, :1]}),
        (r"3 query heads .* \[1, 3\]", {"query": X[:, :1, [0, 0, 0]]}),
        ("window=1.5", {"window": 1.5}),
        ("did you mean 'zigzag'", {"layout": "zigzg"}),
        ("mesh=None must be", {"mesh": None}),
    ],
)
def test_decoding(named, change):
    arguments = {
        "query": X[:, :1],
        "key": X,
        "value": X,
        "position": POSITION,
        "mesh": MESH,
    } | change
    refuses(named, decode_attention, **arguments)


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("position is float64", {"position": POSITION * 1.0}),
        ("position has values", {"position": POSITION + np.int64(2) ** 32}),
        ("cache is int32", {"cache": X.astype(np.int32)}),
        ("new is complex64", {"new": X[:, :1].astype(np.complex64)}),
        ("batch, heads and head_dim", {"new": X[:, :1, :1]}),
        ("batch, heads and head_dim", {"new": X[:1, :1]}),
        (r"position .* = \(2, 2\)", {"new": X[:, :2]}),
        ("7.* multiple of 2", {"cache": X[:, :7]}),
        ("mesh=None must be", {"mesh": None}),
    ],
)
def test_writing_a_cache(named, change):
    arguments = {"cache": X, "new": X[:, :1], "position": POSITION, "mesh": MESH} | change
    refuses(named, write_cache, **arguments)


def test_positions_and_caches_of_other_dtypes():
    half = X.astype(jnp.bfloat16)
    expected = decode_attention(X[:, :1], X, X, POSITION, mesh=MESH)
    for position in (POSITION.astype(np.uint8), POSITION.astype(np.int64), jnp.asarray(POSITION)):
        np.testing.assert_array_equal(
            decode_attention(X[:, :1], X, X, position, mesh=MESH), expected
        )
        assert write_cache(half, X[:, :1], position, mesh=MESH).dtype == jnp.bfloat16
    found = decode_attention(X[:, :1], half, half, POSITION, mesh=MESH)
    # Keys and values of 8 bits each: a part in 2^8 of values below 4, and as much of scores.
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 4 * 4 * 2**-8


@pytest.mark.parametrize("window", [np.int64(3), np.array(3), jnp.array(3)])
def test_a_window_may_be_a_number_of_numpy_or_jax(window):
    decode = partial(decode_attention, X[:, :1], X, X, POSITION, mesh=MESH)
    shard = partial(ring_attention_shard, X, X, X, axis=None)
    for attend in (decode, partial(attention, X, X, X), shard):
        np.testing.assert_array_equal(attend(window=window), attend(window=3))


def test_a_window_larger_than_the_cache_changes_nothing():
    decode = partial(decode_attention, X[:, :1], X, X, POSITION, mesh=MESH)
    for window in (SEQUENCE, 10**12):
        np.testing.assert_array_equal(decode(window=window), decode())


def test_positions_at_the_ends_of_their_types():
    last = np.full((BATCH, 1), SEQUENCE - 1)
    everything = decode_attention(X[:, :1], X, X, last, mesh=MESH)
    for dtype in ("uint32", "int32", "uint8"):
        ends = jnp.iinfo(dtype)
        far = jnp.full((BATCH, 1), ends.max, dtype)
        np.testing.assert_array_equal(decode_attention(X[:, :1], X, X, far, mesh=MESH), everything)
        np.testing.assert_array_equal(write_cache(X, X[:, :1] + 1, far, mesh=MESH), X)
    before = jnp.full((BATCH, 1), -(2**31), jnp.int32)
    assert not np.asarray(decode_attention(X[:, :1], X, X, before, mesh=MESH)).any()


@pytest.mark.parametrize(
    ("named", "function", "arguments"),
    [
        ("list", to_layout, ([1, 2], 1, "zigzag")),
        ("axis=2 is outside -2..1", to_layout, (IDS, 1, "zigzag", 2)),
        ("axis=0.0", to_layout, (IDS, 1, "zigzag", 0.0)),
        ("ring_size=0", to_layout, (IDS, 0, "zigzag")),
        ("ring_size=2.0", to_layout, (IDS, 2.0, "zigzag")),
        ("ring_size=True", to_layout, (IDS, True, "zigzag")),
        ("fill=0.5 .* int32", to_layout, (IDS[:, :7], 1, "zigzag", 1, 0.5)),
        ("fill=nan .* int32", to_layout, (IDS[:, :7], 1, "zigzag", 1, np.nan)),
        ("fill=-1 .* uint8", to_layout, (IDS[:, :7].astype(np.uint8), 1, "zigzag", 1, -1)),
        ("fill=2 .* bool", to_layout, (IDS[:, :7] > 0, 1, "zigzag", 1, 2)),
        ("PRNG keys", to_layout, (jax.random.split(jax.random.key(0), 8), 2, "zigzag", 0)),
        ("query is None", select_kernel, (None,)),
        ("mesh='ring' must be", partial(select_kernel, mesh="ring"), (X,)),
        ("window=2 needs", partial(select_kernel, window=2, causal=False), (X,)),
        ("causal='yes'", partial(select_kernel, causal="yes"), (X,)),
        ("list", from_layout, ([1, 2], 1, "zigzag")),
        ("length=2.5", from_layout, (IDS, 1, "zigzag", 1, 2.5)),
        ("length=-1 is outside 0..8", from_layout, (IDS, 1, "zigzag", 1, -1)),
        ("ring_size=-2", from_layout, (IDS, -2, "zigzag")),
        ("size=5 .* 8 would fit", positions, (5, 2, "zigzag")),
        ("size=4.0", positions, (4.0, 2, "zigzag")),
        ("length=-1", padded_length, (-1, 2)),
        ("length=1.5", padded_length, (1.5, 2)),
        ("ring_size=0", padded_length, (4, 0)),
        ("platform=None", partial(select, None, static=True), (None, np.float32, 8)),
        ("chunks.keys=0", CPUKernel, (Chunks(8, 0, 8),)),
        ("chunks.queries=8.0", XLAKernel, (Chunks(8.0, 8, 8),)),
        (r"chunks=\(8, 8, 8\)", CPUKernel, ((8, 8, 8),)),
        ("min_tokens_per_head_pass=.8", CPUKernel, (Chunks(8, 8, 8), "8")),
    ],
)
def test_layouts_and_kernels(named, function, arguments):
    refuses(named, function, *arguments)


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("x is int32", {"x": X[:, :, 0].astype(np.int32)}),
        ("x has shape", {"x": X}),
        ("chunk=0", {"chunk": 0}),
        ("chunk=2.0", {"chunk": 2.0}),
        ("multiple of 2", {"x": X[:, :7, 0]}),
        (r"function gives \(2, 4\)", {"function": lambda params, x: x.mean(axis=1)}),
        (r"function gives \(2, 4\)", {"function": lambda params, x: x.mean(axis=1), "chunk": 2}),
        ("function gives tuple", {"function": lambda params, x: (x, x)}),
    ],
)
def test_feedforward(named, change):
    arguments = {"function": lambda params, x: x, "params": (), "x": X[:, :, 0]} | change
    refuses(named, lambda: blockwise_feedforward(**arguments))


@pytest.mark.parametrize(
    "function",
    [
        ring_attention_shard,
        ring_attention,
        blockwise_attention,
        dense_attention,
        memory_efficient_attention,
    ],
)
def test_a_mistyped_option_is_named_with_the_function_and_the_nearest(function):
    x = jnp.ones((1, 4, 1, 8))
    more = {"mesh": MESH} if function is ring_attention else {}
    said = rf"{function.__name__}\(\) got .* 'casual'; did you mean 'causal'\?"
    with pytest.raises(TypeError, match=said):
        function(x, x, x, casual=True, **more)


@pytest.mark.parametrize(("capability", "has"), [("7.5", False), ("8.0", True), ("10.3", True)])
def test_gpus_before_ampere_have_no_fused_attention(capability, has):
    assert (capability_problem(capability) == "") == has
