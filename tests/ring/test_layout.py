"""Layout order: a permutation of blocks, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from agentic_transformer.ring import LAYOUTS, from_layout, padded_length, positions, to_layout
from agentic_transformer.ring.layout import shard_positions
from tests.seeds import SEED

DTYPES = ("float32", "int32", "bool", "bfloat16", "int8", "<U3")


@with_seed(SEED)
@settings(deadline=None, database=None)  # a busy machine may stop a process for a while
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from(LAYOUTS),
    st.integers(-3, 2),
    st.sampled_from(DTYPES),
)
def test_there_and_back(length, ring_size, layout, axis, dtype):
    shape = [2, 3, 4]
    shape[axis] = length
    x = (
        (np.arange(np.prod(shape)) % 120)
        .astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
        .reshape(shape)
    )
    y = to_layout(x, ring_size, layout, axis)
    assert (
        y.shape[axis] == padded_length(length, ring_size)
        and y.dtype == x.dtype
        and isinstance(y, np.ndarray)
    )
    assert (from_layout(y, ring_size, layout, axis, length) == x).all()


def test_devices_hold_two_blocks_each():
    assert to_layout(np.arange(8), 4, "zigzag", axis=0).tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert to_layout(np.arange(7), 2, "zigzag", axis=0, fill=-1).tolist() == [
        0,
        1,
        6,
        -1,
        2,
        3,
        4,
        5,
    ]
    assert to_layout(np.arange(8), 4, "contiguous", axis=0).tolist() == list(range(8))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_know_their_positions(layout):
    shards = np.concatenate([shard_positions(index, 6, 5, layout) for index in range(5)])
    assert (shards == positions(30, 5, layout)).all()


def test_jax_arrays_stay_jax_arrays():
    y = jax.jit(lambda x: to_layout(x, 2, "zigzag", fill=3))(jnp.zeros((1, 5)))
    assert isinstance(y, jax.Array) and y.tolist() == [[0, 0, 3, 3, 0, 0, 0, 3]]
    assert isinstance(from_layout(y, 2, "zigzag"), jax.Array)


def test_a_sequence_of_no_tokens_is_padding():
    assert padded_length(0, 3) == 6
    assert to_layout(np.zeros((2, 0)), 3, "zigzag", fill=1).tolist() == [[1] * 6] * 2


def test_errors_name_what_would_fit():
    with pytest.raises(ValueError, match="did you mean 'zigzag'"):
        to_layout(np.zeros(4), 2, "zigzga", axis=0)
    with pytest.raises(ValueError, match="12 would fit"):
        from_layout(np.zeros(9), 2, "zigzag", axis=0)
    with pytest.raises(ValueError, match="length=9 is outside 0..8"):
        from_layout(np.zeros(8), 2, "zigzag", axis=0, length=9)
    with pytest.raises(ValueError, match="ring_size=0"):
        to_layout(np.zeros(8), 0, "zigzag", axis=0)
