"""A token against a sharded cache."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ring_reference import attention_float64

from agentic_transformer.ring import LAYOUTS, decode_attention, padded_length, ring_attention, to_layout, write_cache


def mesh_of(devices):
    return jax.make_mesh((devices,), ("ring",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 7])
def test_tokens_one_by_one_equal_the_whole_sequence(layout, window):
    rng = np.random.default_rng(0)
    length, mesh = 43, mesh_of(4)
    query, key, value = (rng.standard_normal((2, length, heads, 8), np.float32) for heads in (4, 2, 2))
    expected = attention_float64(query, key, value, query, window=window)[0]
    caches = [jnp.zeros((2, padded_length(length, 4), 2, 8))] * 2
    for start, stop in ((0, 20), (20, 21), (21, 22), (22, 43)):
        position = jnp.tile(jnp.arange(start, stop), (2, 1))
        write = partial(write_cache, position=position, mesh=mesh, layout=layout)
        caches = [write(cache, new[:, start:stop]) for cache, new in zip(caches, (key, value), strict=True)]
        found = decode_attention(query[:, start:stop], *caches, position, mesh=mesh, layout=layout, window=window)
        assert np.abs(found - expected[:, start:stop]).max() < 1e-6
    assert (caches[0] == to_layout(key, 4, layout)).all()


def test_rows_of_a_batch_stand_at_their_own_positions():
    rng = np.random.default_rng(1)
    mesh = mesh_of(8)
    query, key, value = (rng.standard_normal((3, 32, 2, 4), np.float32) for _ in range(3))
    expected = attention_float64(query, key, value, query)[0]
    position = np.array([[5], [-1], [31]], np.int32)
    caches = (to_layout(x, 8, "zigzag") for x in (key, value))
    found = decode_attention(query[np.arange(3), position[:, 0]][:, None], *caches, position, mesh=mesh)
    assert np.abs(found[0, 0] - expected[0, 5]).max() < 1e-6
    assert np.abs(found[2, 0] - expected[2, 31]).max() < 1e-6
    assert not np.asarray(found[1]).any()


def test_one_token_against_100_000_moves_no_keys():
    rng = np.random.default_rng(2)
    mesh, capacity = mesh_of(8), 100_000
    shared, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "ring"), ()))
    key, value = (rng.standard_normal((1, capacity, 2, 16), np.float32) for _ in range(2))
    query = np.zeros((1, capacity, 2, 16), np.float32)
    query[:, -1] = rng.standard_normal((1, 2, 16), np.float32)
    placed = [jax.device_put(to_layout(x, 8, "zigzag"), shared) for x in (query, key, value)]
    token = jax.device_put(query[:, -1:], whole)
    position = jax.device_put(np.full((1, 1), capacity - 1, np.int32), whole)
    decode = jax.jit(partial(decode_attention, mesh=mesh)).lower(token, *placed[1:], position).compile()
    program = decode.as_text()
    assert "collective-permute" not in program and "all-gather" not in program and "all-to-all" not in program
    # What is reduced over the ring is as large as the query: nothing comes near the 12,500 tokens of a device.
    assert (
        max(
            int(np.prod(x.aval.shape))
            for x in reduced(jax.make_jaxpr(partial(decode_attention, mesh=mesh))(token, *placed[1:], position).jaxpr)
        )
        <= 64
    )
    scores = np.einsum("hd,khd->hk", query[0, -1].astype(float), key[0].astype(float)) / 4
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = np.einsum("hk,khd->hd", weights / weights.sum(axis=1, keepdims=True), value[0].astype(float))
    assert np.abs(np.asarray(decode(token, *placed[1:], position))[0, 0] - expected).max() < 1e-6


def reduced(jaxpr):
    """Operands of every reduction over devices."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("psum", "pmax", "psum_invariant"):
            yield from equation.invars
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from reduced(inner)


def test_decoding_equals_the_forward_pass_of_the_ring():
    rng = np.random.default_rng(3)
    mesh, sequence = mesh_of(8), 4096
    query, key, value = (rng.standard_normal((1, sequence, 2, 16), np.float32) for _ in range(3))
    placed = [to_layout(x, 8, "zigzag") for x in (query, key, value)]
    whole = ring_attention(*placed, mesh=mesh)
    last = np.argmax(to_layout(np.arange(sequence), 8, "zigzag", axis=0))
    found = decode_attention(query[:, -1:], *placed[1:], np.full((1, 1), sequence - 1, np.int32), mesh=mesh)
    assert np.abs(found[:, 0] - whole[:, last]).max() < 1e-6
