"""Meshes of every kind of axis give what a mesh of automatic axes gives, or one line."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agentic_transformer.ring import (
    BACKBONES,
    Chunks,
    CPUKernel,
    FusedKernel,
    XLAKernel,
    attention,
    blockwise_attention,
    blockwise_feedforward,
    decode_attention,
    dense_attention,
    feedforward,
    from_layout,
    memory_efficient_attention,
    ring_attention,
    ring_attention_shard,
    to_layout,
    write_cache,
)
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng
from tests.static_kernel import ReferenceFused

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("less_optimized")]

SHAPE = (2, 32, 4, 4)
QUERY, KEY, VALUE, WEIGHTS = (rng(n).standard_normal(SHAPE, np.float32) for n in range(4))
ARRAYS = (QUERY, KEY, VALUE)
POSITION = np.array([[20], [31]], np.int32)
IDS = np.arange(32).repeat(2).reshape(2, 32).astype(np.int32) // 24
CHUNKS = Chunks(4, 4, whole=4)
SHARD_KERNELS = {
    "cpu": CPUKernel(CHUNKS),
    "cpu_rows": CPUKernel(CHUNKS, min_tokens_per_head_pass=0),
    "xla": XLAKernel(CHUNKS),
    "reference": "reference",
    "fused": FusedKernel(ReferenceFused()),
}
KINDS = {kind.name.lower(): kind for kind in (AxisType.Auto, AxisType.Explicit)}


def make_mesh(kind="explicit", names=("ring",), sizes=(4,)):
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, names, axis_types=(KINDS[kind],) * len(sizes), devices=devices)


def place(mesh, *axes):
    return [jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes))) for x in ARRAYS]


def with_gradients(function, *arrays):
    output, pull = jax.vjp(jax.jit(function), *arrays)
    weights = jax.device_put(WEIGHTS, output.sharding)
    return [np.asarray(x) for x in (output, *pull(weights))]


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            one, other, rtol=0, atol=1e-5
        )  # 32 terms below 8, to one part in 2^24


@pytest.fixture(scope="module")
def expected():
    attend = partial(attention, backbone="dense", layout="contiguous", segment_ids=IDS)
    return with_gradients(attend, *ARRAYS)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_jax_makes_by_default(backbone, expected):
    """`jax.make_mesh((4,), ("ring",))`; arrays of the host, sharded, and whole on every device."""
    mesh = make_mesh()
    attend = partial(attention, backbone=backbone, mesh=mesh, layout="contiguous", segment_ids=IDS)
    equal(with_gradients(attend, *ARRAYS), expected)
    equal(with_gradients(attend, *place(mesh, None, "ring")), expected)
    equal([attend(*place(mesh))], expected[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_of_arrays_that_lie_on_a_mesh(kind):
    """There, through attention and back, of whole arrays and of sharded ones."""
    mesh = make_mesh(kind, ("data", "ring"), (2, 4))

    def attend(length, *arrays):
        laid_out = (to_layout(x, 4, "zigzag") for x in arrays)
        output = ring_attention(*laid_out, mesh=mesh, batch_axis="data")
        return from_layout(output, 4, "zigzag", length=length)

    exact = attention_and_bounds(*ARRAYS, WEIGHTS)
    for axes in ((), ("data",), ("data", "ring")):
        found = with_gradients(partial(attend, None), *place(mesh, *axes))
        assert_attention(found, *exact)
        assert_attention(
            [attend(29, *place(mesh, *axes))], *([result.output[:, :29]] for result in exact)
        )
    order = np.arange(32, dtype=np.int32).reshape(1, 32)
    sharded = jax.device_put(order, NamedSharding(mesh, PartitionSpec(None, "ring")))
    laid_out = to_layout(sharded, 4, "zigzag")
    assert np.asarray(laid_out)[0, :8].tolist() == [0, 1, 2, 3, 28, 29, 30, 31]
    assert jax.typeof(laid_out).sharding == jax.typeof(sharded).sharding


@pytest.mark.parametrize("kernel", [*SHARD_KERNELS, "all_gather"])
def test_inside_a_shard_map_that_checks_what_varies(kernel):
    """`jax.shard_map` does by default; the batch is sharded, or the same on every device of it."""
    more = {"all_gather": True} if kernel == "all_gather" else {"kernel": SHARD_KERNELS[kernel]}
    mesh = make_mesh("auto", ("data", "ring"), (2, 4))
    rows, same = PartitionSpec("data", "ring"), PartitionSpec(None, "ring")
    shard = partial(ring_attention_shard, layout="contiguous", **more)
    mapped = partial(jax.shard_map, shard, mesh=mesh, out_specs=rows)
    exact, bounds = attention_and_bounds(*ARRAYS, WEIGHTS)
    found = with_gradients(mapped(in_specs=(rows, rows, rows)), *ARRAYS)
    assert_attention(found, exact, bounds)
    # One row of keys for both rows of queries: its gradient is the sum of theirs.
    pair = [x[:1] for x in (KEY, VALUE)]
    found = with_gradients(mapped(in_specs=(rows, same, same)), QUERY, *pair)
    exact, bounds = (
        [*results[:2], *(x.sum(axis=0, keepdims=True) for x in results[2:])]
        for results in attention_and_bounds(QUERY, *(x.repeat(2, 0) for x in pair), WEIGHTS)
    )
    assert_attention(found, exact, bounds)


def test_inside_a_shard_map_the_parts_of_all_devices_may_be_the_same_array():
    """The mask varies over the ring even if no array does."""
    mesh, ring = make_mesh("auto"), PartitionSpec(None, "ring")
    shard = partial(ring_attention_shard, layout="contiguous")
    mapped = jax.shard_map(shard, mesh=mesh, in_specs=PartitionSpec(), out_specs=ring)
    part = [x[:, :8] for x in ARRAYS]
    found = jax.jit(mapped)(*part)
    assert_attention([found], *attention_and_bounds(*(np.tile(x, (1, 4, 1, 1)) for x in part)))


def test_a_length_may_vary_over_another_axis_than_the_ring():
    """Each row of devices has a length of its own, of arrays that are the same in both."""
    mesh, whole = make_mesh("auto", ("data", "ring"), (2, 4)), PartitionSpec(None, "ring")

    def shard(lengths, *arrays):
        return ring_attention_shard(*arrays, layout="contiguous", length=lengths[0])

    lengths, specs = np.array([20, 27], np.int32), (PartitionSpec("data"), whole, whole, whole)
    mapped = jax.shard_map(
        shard, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data", "ring")
    )
    found = jax.jit(mapped)(lengths, *ARRAYS).reshape(2, *SHAPE)
    for length, output in zip(lengths, found, strict=True):
        exact, bounds = attention_and_bounds(*ARRAYS, length=int(length))
        assert_attention([output], exact, bounds)


@pytest.mark.parametrize("backbone", ["blockwise", "memory_efficient"])
def test_one_device_attention_inside_a_shard_map_over_the_batch(backbone):
    mesh, spec = make_mesh("auto", ("data",), (2,)), PartitionSpec("data")
    more = {"kernel": SHARD_KERNELS["cpu"]} if backbone == "blockwise" else {}
    attend = partial(attention, backbone=backbone, layout="contiguous", **more)
    mapped = jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec)
    assert_attention(with_gradients(mapped, *ARRAYS), *attention_and_bounds(*ARRAYS, WEIGHTS))


def test_heads_on_an_explicit_axis(expected):
    mesh = make_mesh("explicit", ("ring", "heads"), (4, 2))
    attend = partial(ring_attention, mesh=mesh, layout="contiguous", segment_ids=IDS)
    equal(with_gradients(attend, *place(mesh, None, "ring", "heads")), expected)
    kinds = (AxisType.Auto, AxisType.Explicit)
    mixed = jax.make_mesh((4, 2), ("ring", "heads"), axis_types=kinds)
    attend = partial(ring_attention, mesh=mixed, layout="contiguous", segment_ids=IDS)
    equal([attend(*place(mixed, None, "ring", "heads"))], expected[:1])


@pytest.mark.parametrize("kind", KINDS)
def test_under_set_mesh_and_with_an_abstract_mesh(kind, expected):
    mesh = make_mesh(kind, ("data", "ring"), (2, 4))
    setting = {"layout": "contiguous", "segment_ids": IDS, "batch_axis": "data"}
    lengths = {"length": np.array([32, 32])}
    placed = place(mesh, "data", "ring")
    equal([ring_attention(*placed, mesh=mesh.abstract_mesh, **setting, **lengths)], expected[:1])
    with jax.set_mesh(mesh):
        here = jax.sharding.get_abstract_mesh()
        for where in (mesh, here):
            equal(with_gradients(partial(ring_attention, mesh=where, **setting), *ARRAYS), expected)
        attend = partial(blockwise_attention, segment_ids=IDS)
        equal(with_gradients(attend, *ARRAYS), expected)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        equal([jax.jit(partial(ring_attention, mesh=mesh, **setting))(*placed)], expected[:1])


@pytest.mark.parametrize(
    "attend", [blockwise_attention, dense_attention, memory_efficient_attention]
)
def test_attention_without_a_mesh_of_arrays_that_lie_on_one(attend, expected):
    for axes in ((None, "ring"), ("data", "ring")):
        arrays = place(make_mesh("explicit", ("data", "ring"), (2, 4)), *axes)
        equal(with_gradients(partial(attend, segment_ids=IDS), *arrays), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_writing_and_feedforward(kind):
    mesh = make_mesh(kind)
    caches = place(mesh, None, "ring")[1:]
    decode = partial(decode_attention, layout="contiguous")
    write = partial(write_cache, new=QUERY[:, :1], position=POSITION, layout="contiguous")
    feedforward = partial(
        blockwise_feedforward, lambda up, x: np.tanh(1) * (x @ up), KEY[0, 0], chunk=4
    )
    x = QUERY[..., 0]
    read = np.asarray(decode(QUERY[:, :1], KEY, VALUE, POSITION, mesh=make_mesh("auto")))
    written = KEY.copy()
    written[[0, 1], POSITION[:, 0]] = QUERY[:, 0]
    widened = np.tanh(1) * (x @ KEY[0, 0])
    for where, key, value in ((mesh, KEY, VALUE), (mesh, *caches), (mesh.abstract_mesh, *caches)):
        np.testing.assert_array_equal(decode(QUERY[:, :1], key, value, POSITION, mesh=where), read)
        np.testing.assert_array_equal(write(key, mesh=where), written)
    for x_ in (x, jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "ring")))):
        for where in (mesh, None):
            equal([feedforward(x_, mesh=where)], [widened])


def test_chunks_of_a_feedforward_are_those_of_a_device_s_own_tokens(monkeypatch):
    monkeypatch.setattr(feedforward, "MIN_CHUNK", 4)
    mesh, seen = make_mesh("auto", ("data", "ring"), (2, 4)), []

    def apply(_, x):
        seen.append(x.shape)
        return x

    x = np.ones((2, 4 * 64, 8), np.float32)
    blockwise_feedforward(apply, (), x, mesh=mesh, batch_axis="data")
    assert set(seen) == {(1, 64 // feedforward.CHUNKS, 8)}


def refuses(named, function, *arguments, **setting):
    with pytest.raises(ValueError, match=named) as error:
        function(*arguments, **setting)
    assert str(error.value).count("\n") < 3


def test_inside_a_shard_map_over_other_axes_the_errors_say_what_works():
    mesh, rows = make_mesh("auto", ("data", "ring"), (2, 4)), PartitionSpec("data")
    within = partial(jax.shard_map, mesh=mesh, in_specs=rows, out_specs=rows, axis_names={"data"})
    for attend in (ring_attention_shard, partial(ring_attention, mesh=mesh.abstract_mesh)):
        refuses(
            r"jax.shard_map\(ring_attention_shard, axis_names=", jax.jit(within(attend)), *ARRAYS
        )
    spec = PartitionSpec(None, "ring")
    shard = partial(ring_attention_shard, layout="contiguous")
    inner = jax.shard_map(shard, in_specs=spec, out_specs=spec, axis_names={"ring"})
    assert_attention([jax.jit(within(inner))(*ARRAYS)], *attention_and_bounds(*ARRAYS))


def test_what_jax_cannot_do_along_explicit_axes_inside_a_shard_map_is_one_line():
    mesh = make_mesh("explicit", ("data", "ring"), (2, 4))
    spec = PartitionSpec(None, "ring")
    some = partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={"ring"})
    sharded, same = place(mesh, "data", "ring"), place(mesh, None, "ring")
    shard = partial(ring_attention_shard, layout="contiguous")
    feedforward = partial(blockwise_feedforward, lambda _, x: x, ())
    refuses(r"\('data',\) explicit.*in_specs.*Auto", jax.jit(some(shard)), *sharded)
    refuses(r"\('data',\) explicit.*in_specs.*Auto", jax.jit(some(feedforward)), same[0][..., 0])
    # What the line says works, and so do arrays that are whole along such an axis.
    rows = PartitionSpec("data", "ring")
    every = jax.shard_map(shard, mesh=mesh, in_specs=rows, out_specs=rows)
    exact = attention_and_bounds(*ARRAYS)
    assert_attention([jax.jit(every)(*sharded)], *exact)
    assert_attention([jax.jit(some(shard))(*same)], *exact)


def test_tensor_parallel_heads_are_shards_of_a_shard_map():
    """Grouped heads, too: each device has the key heads of its own query heads."""
    pair = [x[:, :, :2] for x in (KEY, VALUE)]
    exact = attention_and_bounds(QUERY, *pair, WEIGHTS)
    for kind in KINDS:
        mesh = make_mesh(kind, ("data", "ring", "heads"), (2, 2, 2))
        spec = PartitionSpec("data", "ring", "heads")
        shard = partial(ring_attention_shard, layout="contiguous")
        mapped = jax.shard_map(shard, mesh=mesh, in_specs=spec, out_specs=spec)
        arrays = [jax.device_put(x, NamedSharding(mesh, spec)) for x in (QUERY, *pair)]
        assert_attention(with_gradients(mapped, *arrays), *exact)


@pytest.mark.parametrize("length", [24, np.array([24, 31])])
def test_lengths_where_nothing_is_compiled(length):
    """As JAX's debugging modes do it: they call functions with arguments as they came."""
    arrays, mesh = [x[:, :, :1] for x in ARRAYS], make_mesh("auto", sizes=(1,))
    attend = partial(ring_attention, mesh=mesh, kernel="reference", length=length)
    compiled = attend(*arrays)
    with jax.disable_jit():
        found = attend(*arrays)
    np.testing.assert_allclose(found, compiled, rtol=0, atol=1e-5)  # as in `equal`


def test_an_abstract_mesh_of_arrays_that_lie_nowhere_is_one_line():
    mesh = jax.sharding.AbstractMesh((4,), ("ring",))
    with pytest.raises(ValueError, match="has no devices"):
        ring_attention(*ARRAYS, mesh=mesh, layout="contiguous")


def test_what_cannot_work_is_one_line():
    mesh = make_mesh("auto")
    devices = np.array(jax.devices())
    for others in (devices[4:], devices[:4][::-1], devices[:1]):
        elsewhere = place(Mesh(others, ("ring",)), None, "ring")
        refuses(
            r"query lies on other devices.*device_put\(query", ring_attention, *elsewhere, mesh=mesh
        )
        refuses("value lies on other", ring_attention, QUERY, KEY, elsewhere[2], mesh=mesh)
        refuses("cache lies on other", write_cache, elsewhere[0], QUERY[:, :1], POSITION, mesh=mesh)
        refuses(
            "x lies on other",
            blockwise_feedforward,
            lambda _, x: x,
            (),
            elsewhere[0][..., 0],
            mesh=mesh,
        )
    for device in devices[[0, 5]]:
        alone = jax.device_put(KEY, device)
        refuses("key lies on other", ring_attention, QUERY, alone, VALUE, mesh=mesh)
    spec = PartitionSpec(None, "ring")
    within = partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    refuses("ring_attention_shard", within(lambda x: ring_attention(x, x, x, mesh=mesh)), QUERY)
    odd = within(lambda x: ring_attention_shard(x, x, x))
    refuses("two blocks of tokens", odd, QUERY[:, :20])
    with jax.set_mesh(make_mesh("explicit")):
        refuses("is not the mesh of jax.set_mesh", ring_attention, *ARRAYS, mesh=mesh)
        refuses("get_abstract_mesh", ring_attention, *ARRAYS, mesh=None)
