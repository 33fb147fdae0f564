"""Over a ring too, what a query does not see does not reach it, whatever it holds."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from agentic_transformer.ring import (
    Chunks,
    CPUKernel,
    attention,
    decode_attention,
    from_layout,
    to_layout,
    write_cache,
)
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng

pytestmark = pytest.mark.slow

RING, SEQUENCE = 4, 192
IN_CHUNKS = CPUKernel(Chunks(8, 16, whole=16), min_tokens_per_head_pass=0)
AXES = (AxisType.Auto, AxisType.Auto)
MESH = jax.make_mesh((2, RING), ("data", "ring"), axis_types=AXES)
ATTENTIONS = [("ring", None), ("ring", IN_CHUNKS), ("all_gather", IN_CHUNKS), ("dense", None)]


def draw(seed):
    return [rng(seed, n).standard_normal((2, SEQUENCE, 2, 4), np.float32) for n in range(4)]


def with_gradients(backbone, kernel, **setting):
    """Output and gradients of a weighted sum, of arrays in natural order."""
    where = {"backbone": backbone, "kernel": kernel, "mesh": MESH, "batch_axis": "data"}

    @jax.jit
    def both(query, key, value, weights):
        output, pull = jax.vjp(partial(attention, **where, **setting), query, key, value)
        return output, *pull(weights)

    def natural(arrays):
        found = both(*(to_layout(x, RING, "zigzag") for x in arrays))
        return [from_layout(np.asarray(x), RING, "zigzag") for x in found]

    return natural


@pytest.mark.parametrize("length", [100, np.array([100, 37])], ids=str)
@pytest.mark.parametrize(("backbone", "kernel"), ATTENTIONS)
def test_rows_of_a_length_are_rows_alone_and_padding_reaches_nothing(backbone, kernel, length):
    arrays = draw(0)
    found = with_gradients(backbone, kernel, length=length, causal=False)
    results = found(arrays)
    for row, end in enumerate(np.broadcast_to(length, 2)):
        alone = attention_and_bounds(*(x[row : row + 1, :end] for x in arrays), causal=False)
        assert_attention([result[row : row + 1, :end] for result in results], *alone)
        assert not any(result[row, end:].any() for result in results)
    padding = np.arange(SEQUENCE) >= np.broadcast_to(length, 2)[:, None]
    for held in (np.nan, -3e38):
        spoilt = found([np.where(padding[..., None, None], np.float32(held), x) for x in arrays])
        for result, other in zip(results, spoilt, strict=True):
            np.testing.assert_array_equal(result, other)


@pytest.mark.parametrize(("backbone", "kernel"), ATTENTIONS[:3])
def test_a_nan_reaches_no_earlier_token_and_no_other_segment(backbone, kernel):
    arrays, at, starts = draw(1), 70, 50  # within a device's block, and a chunk
    segments = np.tile((np.arange(SEQUENCE) >= starts).astype(np.int32), (2, 1))
    found = with_gradients(backbone, kernel, segment_ids=to_layout(segments, RING, "zigzag"))
    before = found(arrays)
    for which in range(4):
        spoilt = [x.copy() for x in arrays]
        spoilt[which][:, at] = np.nan
        output, *gradients = found(spoilt)
        np.testing.assert_array_equal(output[:, :at], before[0][:, :at])
        if which != 3:
            assert np.isnan(output[:, at]).all()
        for gradient, clean in zip(gradients, before[1:], strict=True):
            np.testing.assert_array_equal(gradient[:, :starts], clean[:, :starts])


def test_a_new_token_sees_nothing_of_slots_that_hold_nan():
    query, key, value, _ = draw(2)
    position = np.array([[30, 31], [90, 91]], np.int32)
    arguments = {"mesh": MESH, "batch_axis": "data", "window": 25}
    decode = jax.jit(partial(decode_attention, **arguments))
    cached = [jnp.asarray(to_layout(x, RING, "zigzag")) for x in (key, value)]
    expected = decode(query[:, :2], *cached, position)
    assert expected.sharding.shard_shape(expected.shape)[0] == 1  # rows of the device's own
    expected = np.asarray(expected)
    at = np.arange(SEQUENCE)
    unseen = (at > position[:, 1:]) | (at <= position[:, :1] - 25)
    holes = [np.where(unseen[..., None, None], np.nan, x) for x in (key, value)]
    cached = [jnp.asarray(to_layout(x, RING, "zigzag")) for x in holes]
    np.testing.assert_array_equal(decode(query[:, :2], *cached, position), expected)
    # The later of two new tokens may be NaN: the earlier one does not see it.
    write = partial(write_cache, position=position[:, 1:], mesh=MESH, batch_axis="data")
    cached = [write(x, np.full((2, 1, 2, 4), np.nan, np.float32)) for x in cached]
    found = np.asarray(decode(query[:, :2], *cached, position))
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    assert np.isnan(found[:, 1]).all()
