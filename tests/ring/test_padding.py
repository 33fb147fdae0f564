"""What a query does not see does not reach it, whatever it holds: padding, and hidden tokens."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring import Chunks, CPUKernel, XLAKernel, attention, baselines
from agentic_transformer.ring.padding import attend_within_lengths, clipped, signed_ids
from tests.seeds import rng

pytestmark = pytest.mark.slow

BATCH, SEQUENCE, HEADS, HEAD_DIM = 2, 64, 2, 4
BACKBONES = ("blockwise", "dense", "memory_efficient")  # the others are, on one device, blockwise
IN_CHUNKS = CPUKernel(Chunks(16, 8, whole=16))
ON_ACCELERATORS = XLAKernel(Chunks(16, 8, whole=16, rows=2))


def draw(seed=0):
    """Query, key, value and the weights of a sum of outputs."""
    shape = (BATCH, SEQUENCE, HEADS, HEAD_DIM)
    return [rng(seed, n).standard_normal(shape, np.float32) for n in range(4)]


def with_gradients(function):
    @jax.jit
    def both(query, key, value, weights):
        output, pull = jax.vjp(function, query, key, value)
        return output, *pull(weights)

    return lambda arrays: [np.asarray(x) for x in both(*arrays)]


def seen_by(*, causal=True, window=None, segment_ids=None, length=None):
    """(batch, queries, keys): who sees whom, as the arguments are documented."""
    i, j = np.arange(SEQUENCE)[:, None], np.arange(SEQUENCE)
    seen = np.broadcast_to((j <= i) if causal else True, (BATCH, SEQUENCE, SEQUENCE)).copy()
    if window is not None:
        seen &= i - j < window
    if segment_ids is not None:
        seen &= segment_ids[:, :, None] == segment_ids[:, None, :]
    if length is not None:
        ends = np.broadcast_to(length, BATCH)[:, None, None]
        seen &= (i < ends) & (j < ends)
    return seen


def float64(query, key, value, weights, seen):
    """Output and gradients of the weighted sum, as the formulas stand."""
    query, key, value, weights = (np.asarray(x, np.float64) for x in (query, key, value, weights))
    scores = np.einsum("bihd,bjhd->bhij", query, key) / np.sqrt(HEAD_DIM)
    share = np.exp(scores - scores.max(axis=-1, keepdims=True)) * seen[:, None]
    share /= np.maximum(share.sum(axis=-1, keepdims=True), 1e-300)
    dshare = np.einsum("bihd,bjhd->bhij", weights, value)
    dscores = share * (dshare - (share * dshare).sum(axis=-1, keepdims=True)) / np.sqrt(HEAD_DIM)
    return [
        np.einsum("bhij,bjhd->bihd", share, value),
        np.einsum("bhij,bjhd->bihd", dscores, key),
        np.einsum("bhij,bihd->bjhd", dscores, query),
        np.einsum("bhij,bihd->bjhd", share, weights),
    ]


def segments_of(given, length):
    """The segments with which rows of these lengths attend."""
    sequence, seen = SEQUENCE * 16, []

    def attend(query, key, value, segment_ids):
        seen.append(np.asarray(segment_ids))
        return value

    ones = jnp.ones((2, sequence, 1, 1))
    output = attend_within_lengths(attend, (ones,) * 3, given, jnp.arange(sequence), length)
    real = np.arange(sequence) < length[:, None]
    np.testing.assert_array_equal(output[..., 0, 0], real)
    return seen[0], real


def test_padding_lies_in_short_segments_so_that_kernels_skip_it():
    for row, real in zip(*segments_of(None, jnp.array([600, 0])), strict=True):
        assert len(np.unique(row[real])) <= 1 and not set(row[real]) & set(row[~real])
        # No longer than a kernel's chunk, and in the order of the sequence.
        assert np.bincount(row[~real]).max() <= 256 and (np.diff(row[~real]) >= 0).all()


def test_padding_leaves_the_segments_of_the_caller_apart():
    """Whatever their ids, but for the two smallest integers there are."""
    least = np.iinfo(np.int32).min
    given = np.array([[least + 1, least + 2], [3, least + 4]], np.int32).repeat(512, axis=1)
    for row, real, known in zip(*segments_of(given, jnp.array([600, 1024])), given, strict=True):
        assert not set(row[real]) & set(row[~real])
        np.testing.assert_array_equal(row[real], known[real])


def test_memory_efficient_attention_pads_its_last_chunk(monkeypatch):
    """62 tokens in chunks of at most 16: four of 16, where once only two divided 62."""
    monkeypatch.setattr(baselines, "CHUNK", 16)
    *arrays, weights = (array[:, :62] for array in draw())
    shapes = []
    step = baselines._softmax_step

    def counted(query, *rest):
        shapes.append(query.shape)
        return step(query, *rest)

    monkeypatch.setattr(baselines, "_softmax_step", counted)
    results = with_gradients(partial(attention, backbone="memory_efficient", length=60))
    found = results([*arrays, weights])
    assert {shape[1] for shape in shapes} == {16}
    whole = [np.pad(array, ((0, 0), (0, 2), (0, 0), (0, 0))) for array in (*arrays, weights)]
    exact = [array[:, :62] for array in float64(*whole, seen_by(length=60))]
    for result, expected in zip(found, exact, strict=True):
        # Sums over 62 keys and their exponentials; scores are below 16.
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_lengths_of_rows_need_no_promotion_of_ranks():
    arrays, length = draw()[:3], jnp.array([5, 3])
    for causal in (True, False):
        expected = attention(*arrays, backbone="blockwise", causal=causal, length=length)
        with jax.numpy_rank_promotion("raise"):
            found = attention(*arrays, backbone="blockwise", causal=causal, length=length)
        np.testing.assert_array_equal(found, expected)


SEGMENTS = np.stack([np.arange(SEQUENCE) // 23, np.arange(SEQUENCE) % 2]).astype(np.int32)


@pytest.mark.parametrize(
    ("setting", "length"),
    [
        ({"causal": False}, 41),
        ({"segment_ids": SEGMENTS}, np.array([41, 13])),
        ({}, np.array([0, SEQUENCE])),
    ],
    ids=["all", "packed", "causal"],
)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_lengths_equal_the_formulas_and_padding_reaches_nothing(backbone, setting, length):
    attend = partial(attention, backbone=backbone, kernel=IN_CHUNKS, layout="contiguous", **setting)
    found = with_gradients(partial(attend, length=length))
    padding = np.arange(SEQUENCE) >= np.broadcast_to(length, BATCH)[:, None]
    arrays = draw()
    results = found(arrays)
    clean = [np.where(padding[..., None, None], 0, x) for x in arrays]
    expected = float64(*clean, seen_by(**setting, length=length))
    for result, reference in zip(results, expected, strict=True):
        # Sums of at most 64 terms of magnitude up to 8, each rounded to one part in 2^24.
        assert np.abs(result - reference).max() < 64 * 8 * 2**-24
        assert not result[padding].any()
    for held in (np.nan, np.inf, -3e38):
        spoilt = found([np.where(padding[..., None, None], np.float32(held), x) for x in arrays])
        for result, other in zip(results, spoilt, strict=True):
            np.testing.assert_array_equal(result, other)


@pytest.mark.parametrize(
    "setting", [{}, {"segment_ids": SEGMENTS, "window": 9}], ids=["causal", "packed"]
)
@pytest.mark.parametrize(
    ("backbone", "kernel"),
    [("dense", None), ("memory_efficient", None)]
    + [("blockwise", kernel) for kernel in (None, IN_CHUNKS, ON_ACCELERATORS)],
    ids=["dense", "memory_efficient", "whole", "in chunks", "on accelerators"],
)
def test_what_is_not_finite_reaches_what_sees_it_and_nothing_else(backbone, kernel, setting):
    found = with_gradients(
        partial(attention, backbone=backbone, kernel=kernel, **setting, layout="contiguous")
    )
    seen = seen_by(**setting)
    arrays, at = draw(1), 37
    before = found(arrays)
    for which in range(4):
        spoilt = [x.copy() for x in arrays]
        spoilt[which][:, at] = [np.nan, np.inf, -np.inf, np.nan][which]
        output, *gradients = found(spoilt)
        is_query = which in (0, 3)
        queries = np.zeros((BATCH, SEQUENCE), bool)
        queries[:, at] = is_query
        queries |= seen[:, :, at] & (not is_query)
        if which < 3:
            assert np.isnan(output[queries]).all()
        np.testing.assert_array_equal(output[~queries], before[0][~queries])
        if backbone != "blockwise":
            continue  # their gradients are JAX's own
        keys = np.einsum("bi,bij->bj", queries, seen)
        untouched = (~queries, ~keys, ~keys)
        for gradient, clean, same in zip(gradients, before[1:], untouched, strict=True):
            np.testing.assert_array_equal(gradient[same], clean[same])


def test_a_length_that_is_traced_is_clamped():
    arrays = draw(2)
    attend = jax.jit(lambda length: attention(*arrays[:3], backbone="blockwise", length=length))
    whole, none = attend(jnp.int32(SEQUENCE)), attend(jnp.int32(0))
    assert np.abs(whole).min() > 0 and not np.asarray(none).any()
    np.testing.assert_array_equal(attend(jnp.int32(SEQUENCE + 5)), whole)
    np.testing.assert_array_equal(attend(jnp.int32(-5)), none)
    rows = attend(jnp.array([SEQUENCE + 5, -5]))
    np.testing.assert_allclose(rows[0], whole[0], atol=64 * 8 * 2**-24)
    assert not np.asarray(rows[1]).any()


def test_a_window_larger_than_the_sequence_changes_nothing():
    arrays = draw(3)
    for backbone in BACKBONES:
        whole = attention(*arrays[:3], backbone=backbone)
        for window in (SEQUENCE, 10**12):
            output = attention(*arrays[:3], backbone=backbone, window=window)
            # Another program, which may add in another order.
            assert np.abs(output - whole).max() < 64 * 8 * 2**-24


def test_no_segment_id_is_taken_for_padding():
    """Not even the smallest integer, whose value nobody can check in an array of JAX."""
    ids, length = jnp.full((BATCH, SEQUENCE), -(2**31), jnp.int32), np.array([6, SEQUENCE])
    setting = {"layout": "contiguous", "causal": False, "length": length}
    attend = partial(attention, *draw()[:3], backbone="blockwise", **setting)
    np.testing.assert_array_equal(attend(segment_ids=ids), attend(segment_ids=0 * ids))


@pytest.mark.parametrize(("least", "most"), [(0, 300), (-(2**31), 2**31 - 1)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_integers_of_any_type_are_clipped(dtype, least, most):
    ends = np.iinfo(dtype)
    values = np.array([ends.min, 0, 1, 127, ends.max], dtype)
    found = clipped(jnp.asarray(values), least, most)
    assert found.tolist() == [min(max(int(x), least), most) for x in values]


def test_different_segment_ids_stay_different():
    for dtype in ("uint32", "int64"):
        with jax.enable_x64(True):
            ids = signed_ids(
                jnp.array([0, 1, 2**31, 2**32 - 1] + [2**32] * (dtype == "int64"), dtype)
            )
        assert len(set(ids.tolist())) == ids.size
