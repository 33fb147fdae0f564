"""The backbones on one device, against a loop in float64 that shares no code with them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring import BACKBONES, Chunks, attention, blockwise_attention, blockwise_feedforward, plain_kernel

KERNELS = [None] + [plain_kernel("cpu", Chunks(32, 16, whole=32, rows=rows)) for rows in (1, 2, 64)]
KERNELS += [plain_kernel("tpu", Chunks(32, 16, whole=32, rows=2, on_cpu=False))]


def plainly(query, key, value, *, causal=True, segment_ids=None, window=None, length=None):
    """One query at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    output = np.zeros(query.shape)
    group = query.shape[2] // key.shape[2]
    for b, i, h in np.ndindex(query.shape[:3]):
        j = np.arange(key.shape[1])
        seen = np.ones(j.size, bool) if not causal else j <= i
        if window is not None:
            seen &= j > i - window
        if length is not None:
            seen &= (j < length) & (i < length)
        if segment_ids is not None:
            seen &= segment_ids[b] == segment_ids[b, i]
        if seen.any():
            scores = key[b, seen, h // group] @ query[b, i, h] / np.sqrt(query.shape[3])
            weights = np.exp(scores - scores.max())
            output[b, i, h] = weights @ value[b, seen, h // group] / weights.sum()
    return output


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("setting", "heads"),
    [
        ({}, (2, 2)),
        ({"causal": False, "length": 70}, (4, 2)),
        ({"window": 9}, (2, 1)),
        ({"packed": True, "length": 77}, (4, 2)),
    ],
)
def test_equals_a_loop(backbone, setting, heads):
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((2, 84, h, 8), np.float32) for h in (*heads, heads[1]))
    setting = dict(setting)
    if setting.pop("packed", False):
        setting["segment_ids"] = np.sort(rng.integers(0, 3, (2, 84)), axis=1)
    expected = plainly(query, key, value, **setting)
    for kernel in KERNELS if backbone == "blockwise" else KERNELS[:1]:
        found = attention(query, key, value, backbone=backbone, kernel=kernel, **setting)
        assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_scores_of_any_size_do_not_overflow(kernel):
    rng = np.random.default_rng(1)
    query, key, value = (1e3 * rng.standard_normal((1, 128, 1, 8), np.float32) for _ in range(3))
    expected = plainly(query, key, value)
    found, pull = jax.vjp(partial(blockwise_attention, kernel=kernel), query, key, value)
    # Scores near 1e6 are known to one part in 2^24, so weights to about 0.1 where two keys nearly tie; values are near 1e3.
    assert np.isfinite(found).all() and np.median(np.abs(found - expected)) < 1e-3
    assert all(np.isfinite(gradient).all() for gradient in pull(found))


@pytest.mark.parametrize("kernel", KERNELS[1:])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_query_may_be_of_any_length_beside_others(kernel, sign):
    """Some with moderate scores and some with great ones in a chunk, and great keys after moderate ones; all of one sign."""
    rng = np.random.default_rng(3)
    query, key = (np.abs(rng.standard_normal((1, 256, 1, 16), np.float32)) for _ in range(2))
    value = rng.standard_normal((1, 256, 1, 16), np.float32)
    query *= sign * 10.0 ** rng.integers(-2, 4, (1, 256, 1, 1)).astype(np.float32)
    key[:, 160:] *= 30
    expected = plainly(query, key, value)
    found, dense = (
        np.abs(attention(query, key, value, backbone=backbone, kernel=given) - expected).max(axis=(0, 2, 3))
        for backbone, given in (("blockwise", kernel), ("dense", None))
    )
    for which in (np.abs(query).max(axis=(0, 2, 3)) < 1, slice(None)):
        assert found[which].max() <= 1.5 * dense[which].max()


def test_exact_where_one_of_several_hundred_keys_has_most_of_the_weight():
    # Query 468 of this seed: scores rounded as dense attention rounds them would miss the bound by a tenth.
    rng = np.random.default_rng(4)
    query, key, value = (rng.standard_normal((1, 4096, 4, 64), np.float32)[:, :512] for _ in range(3))
    assert np.abs(blockwise_attention(query, key, value) - plainly(query, key, value)).max() <= 1e-6


def test_blockwise_feedforward_is_the_feedforward():
    rng = np.random.default_rng(2)
    x, up, down = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 96, 8), (8, 32), (32, 8)))

    def loss(chunk, x, up, down):
        y = blockwise_feedforward(lambda params, x: jax.nn.gelu(x @ params[0]) @ params[1], (up, down), x, chunk=chunk)
        return jnp.sum(y**2)

    whole = jax.grad(partial(loss, 96), argnums=(0, 1, 2))(x, up, down)
    for chunk in (7, 32):
        for gradient, expected in zip(jax.grad(partial(loss, chunk), argnums=(0, 1, 2))(x, up, down), whole, strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-2)


def test_unknown_backbone_is_named():
    x = np.zeros((1, 4, 1, 8), np.float32)
    with pytest.raises(ValueError, match="did you mean 'blockwise'"):
        attention(x, x, x, backbone="blokwise")
