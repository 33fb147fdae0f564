"""A token against a sharded cache."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from agentic_transformer.ring import (
    LAYOUTS,
    decode_attention,
    padded_length,
    ring_attention,
    to_layout,
    write_cache,
)
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng


def mesh_of(devices):
    return jax.make_mesh(
        (devices,), ("ring",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", [None, 7])
def test_tokens_one_by_one_equal_the_whole_sequence(layout, window):
    data = rng(0)
    length, mesh = 43, mesh_of(4)
    query, key, value = (
        data.standard_normal((2, length, heads, 8), np.float32) for heads in (4, 2, 2)
    )
    exact, bounds = attention_and_bounds(query, key, value, window=window)
    caches = [jnp.zeros((2, padded_length(length, 4), 2, 8))] * 2
    for start, stop in ((0, 20), (20, 21), (21, 22), (22, 43)):
        position = jnp.tile(jnp.arange(start, stop), (2, 1))
        write = partial(write_cache, position=position, mesh=mesh, layout=layout)
        caches = [
            write(cache, new[:, start:stop])
            for cache, new in zip(caches, (key, value), strict=True)
        ]
        found = decode_attention(
            query[:, start:stop], *caches, position, mesh=mesh, layout=layout, window=window
        )
        assert_attention([found], *([result.output[:, start:stop]] for result in (exact, bounds)))
    assert (caches[0] == to_layout(key, 4, layout)).all()


def test_rows_of_a_batch_stand_at_their_own_positions():
    data = rng(1)
    mesh = mesh_of(8)
    query, key, value = (data.standard_normal((3, 32, 2, 4), np.float32) for _ in range(3))
    exact, bounds = attention_and_bounds(query, key, value)
    position = np.array([[5], [-1], [31]], np.int32)
    caches = (to_layout(x, 8, "zigzag") for x in (key, value))
    found = decode_attention(
        query[np.arange(3), position[:, 0]][:, None], *caches, position, mesh=mesh
    )
    for row, at in ((0, 5), (2, 31)):
        assert_attention([found[row, 0]], *([result.output[row, at]] for result in (exact, bounds)))
    assert not np.asarray(found[1]).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_token_changes_its_own_slot_only_also_of_a_cache_that_every_device_holds(layout):
    mesh, capacity = mesh_of(4), 16
    whole = NamedSharding(mesh, PartitionSpec())
    before = rng(5).standard_normal((1, capacity, 2, 3), np.float32)
    cache = jax.device_put(to_layout(before, 4, layout), whole)
    new = jax.device_put(np.full((1, 1, 2, 3), 9, np.float32), whole)
    for at in range(-1, capacity + 1):
        expected = before.copy()
        expected[:, at : at + 1] = 9  # nothing at -1 and at the capacity
        found = write_cache(cache, new, np.full((1, 1), at), mesh=mesh, layout=layout)
        np.testing.assert_array_equal(found, to_layout(expected, 4, layout))


def test_gradients_of_the_last_token_equal_float64():
    data = rng(4)
    mesh = mesh_of(4)
    query, weights = (data.standard_normal((2, 1, 4, 8), np.float32) for _ in range(2))
    key, value = (data.standard_normal((2, 32, 2, 8), np.float32) for _ in range(2))
    position = np.full((2, 1), 31, np.int32)
    decode = partial(decode_attention, position=position, mesh=mesh, layout="contiguous")
    output, pull = jax.vjp(decode, query, key, value)
    exact = attention_and_bounds(query, key, value, weights, causal=False)
    assert_attention([output, *pull(weights)], *exact)


def test_one_token_against_100_000_moves_no_keys():
    data = rng(2)
    mesh, capacity = mesh_of(8), 100_000
    shared, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "ring"), ()))
    key, value = (data.standard_normal((1, capacity, 2, 16), np.float32) for _ in range(2))
    query = np.zeros((1, capacity, 2, 16), np.float32)
    query[:, -1] = data.standard_normal((1, 2, 16), np.float32)
    placed = [jax.device_put(to_layout(x, 8, "zigzag"), shared) for x in (query, key, value)]
    token = jax.device_put(query[:, -1:], whole)
    position = jax.device_put(np.full((1, 1), capacity - 1, np.int32), whole)
    decode = (
        jax.jit(partial(decode_attention, mesh=mesh)).lower(token, *placed[1:], position).compile()
    )
    program = decode.as_text()
    assert (
        "collective-permute" not in program
        and "all-gather" not in program
        and "all-to-all" not in program
    )
    # What is reduced over the ring is as large as the query: nothing comes near the 12,500 tokens
    # of a device.
    assert (
        max(
            int(np.prod(x.aval.shape))
            for x in reduced(
                jax.make_jaxpr(partial(decode_attention, mesh=mesh))(
                    token, *placed[1:], position
                ).jaxpr
            )
        )
        <= 64
    )
    exact, bounds = attention_and_bounds(token, key, value, causal=False)
    assert_attention([decode(token, *placed[1:], position)], exact, bounds)


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
    data = rng(3)
    mesh, sequence = mesh_of(8), 4096
    query, key, value = (data.standard_normal((1, sequence, 2, 16), np.float32) for _ in range(3))
    placed = [to_layout(x, 8, "zigzag") for x in (query, key, value)]
    whole = ring_attention(*placed, mesh=mesh)
    last = np.argmax(to_layout(np.arange(sequence), 8, "zigzag", axis=0))
    found = decode_attention(
        query[:, -1:], *placed[1:], np.full((1, 1), sequence - 1, np.int32), mesh=mesh
    )
    exact, bounds = attention_and_bounds(query[:, -1:], key, value, causal=False)
    for result in (found, whole[:, last : last + 1]):
        assert_attention([result], exact, bounds)
