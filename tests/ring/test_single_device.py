"""The backbones on one device, against formulas in float64 that share no code with them."""

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
    baselines,
    blockwise_attention,
    blockwise_feedforward,
    dense_attention,
    memory_efficient_attention,
)
from agentic_transformer.ring.feedforward import default_chunk
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng
from tests.tolerances import SIGMAS, assert_close, assert_within, rounding, unit

pytestmark = pytest.mark.slow

KERNELS = [None] + [CPUKernel(Chunks(32, 16, whole=32, rows=rows)) for rows in (1, 2, 64)]
KERNELS += [XLAKernel(Chunks(32, 16, whole=32, rows=2))]


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
def test_equals_float64(backbone, setting, heads):
    data = rng(0)
    query, key, value = (
        data.standard_normal((2, 84, h, 8), np.float32) for h in (*heads, heads[1])
    )
    setting = dict(setting)
    if setting.pop("packed", False):
        setting["segment_ids"] = np.sort(data.integers(0, 3, (2, 84)), axis=1)
    expected = attention_and_bounds(query, key, value, **setting)
    for kernel in KERNELS if backbone == "blockwise" else KERNELS[:1]:
        assert_attention(
            [attention(query, key, value, backbone=backbone, kernel=kernel, **setting)], *expected
        )


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_scores_of_any_size_do_not_overflow(kernel):
    """Scores near 1e6 are known to 0.1 or worse: where keys nearly tie, an output is known to be a
    mean of values alone."""
    data = rng(1)
    query, key, value = (1e3 * data.standard_normal((1, 128, 1, 8), np.float32) for _ in range(3))
    found, pull = jax.vjp(partial(blockwise_attention, kernel=kernel), query, key, value)
    exact, bounds = attention_and_bounds(query, key, value)
    assert_attention([found], exact, bounds)
    # A score stands out from the next by some 1e5: of most queries one key has all of the weight,
    # and the output is its value.
    assert np.median(np.abs(found - exact.output)) <= rounding(4) * np.abs(value).max()
    assert all(np.isfinite(gradient).all() for gradient in pull(found))


def test_dense_attention_of_float64_is_float64():
    arrays = [rng(6, n).standard_normal((1, 12, 2, 4)) for n in range(3)]
    with jax.enable_x64(True):
        found = dense_attention(*arrays)
    exact, bounds = attention_and_bounds(*arrays)
    # The bounds are proportional to the unit of rounding, to first order.
    assert_within(found, exact.output, bounds.output * (2 * unit(np.float64) / unit()))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_low_score_is_no_hidden_one(backbone):
    """Of scores near -2e30 a query sees its keys as well: where values are 2, so is the output."""
    query, key = (np.full((1, 4, 1, 4), sign * 1e15, np.float32) for sign in (1, -1))
    value = np.full_like(query, 2)
    np.testing.assert_array_equal(attention(query, key, value, backbone=backbone), value)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_query_may_be_of_any_length_beside_others(kernel, sign):
    """Some with moderate scores and some with great ones in a chunk, and great keys after moderate
    ones; all of one sign.

    Each query is held to the error that its own scores entail, from 1e-6 for scores near 1 to none
    for those near 1e6.
    """
    data = rng(3)
    query, key = (np.abs(data.standard_normal((1, 256, 1, 16), np.float32)) for _ in range(2))
    value = data.standard_normal((1, 256, 1, 16), np.float32)
    query *= sign * 10.0 ** data.integers(-2, 4, (1, 256, 1, 1)).astype(np.float32)
    key[:, 160:] *= 30
    expected = attention_and_bounds(query, key, value)
    for backbone in ("blockwise", "dense") if kernel is None else ("blockwise",):
        assert_attention(
            [attention(query, key, value, backbone=backbone, kernel=kernel)], *expected
        )


@pytest.mark.parametrize(
    "setting",
    [{}, {"segment_ids": np.arange(512, dtype=np.int32)[None] // 100}],
    ids=["causal", "segments"],
)
def test_queries_that_see_few_keys_are_as_exact_as_dense_attention_has_them(setting):
    """In the mean square over 2,048 rows of outputs, and of gradients, whose ratio varies by a few
    per cent from seed to seed.

    The largest of the errors is a matter of luck: of which query one key has most of the weight,
    and how that is rounded.
    """
    data = rng(4)
    *arrays, weights = (data.standard_normal((1, 512, 4, 64), np.float32) for _ in range(4))
    exact, bounds = attention_and_bounds(*arrays, weights, **setting)
    errors = []
    for backbone in ("blockwise", "dense"):
        output, pull = jax.vjp(partial(attention, backbone=backbone, **setting), *arrays)
        found = output, *pull(weights)
        assert_attention(found, exact, bounds)
        errors.append([np.sqrt(np.mean((x - y) ** 2)) for x, y in zip(found, exact, strict=True)])
    for ours, dense in zip(*errors, strict=True):
        assert ours <= (1 + SIGMAS / np.sqrt(2048)) * dense


@pytest.mark.parametrize("kernel", ["cpu", "xla"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_in_chunks_under_64_bits(kernel, dtype):
    """More tokens than any kernel leaves whole, where JAX's own integers have 64 bits."""
    data = rng(5)
    arrays = [data.standard_normal((1, 600, h, 8), np.float32).astype(dtype) for h in (2, 1, 1, 2)]
    *inputs, weights = arrays
    with jax.enable_x64(True):
        attend = partial(blockwise_attention, kernel=kernel, window=400, length=np.int64(590))
        output, pull = jax.vjp(jax.jit(attend), *inputs)
        found = output, *pull(jnp.asarray(weights))
    assert all(x.dtype == dtype for x in found)
    assert_attention(found, *attention_and_bounds(*arrays, window=400, length=590))


def test_blockwise_feedforward_is_the_feedforward():
    data = rng(2)
    x, up, down = (
        jnp.asarray(data.standard_normal(shape), jnp.float32)
        for shape in ((2, 96, 8), (8, 32), (32, 8))
    )

    def loss(chunk, x, up, down):
        # The function of tokens is the user's, and so is the precision of its products.
        with jax.default_matmul_precision("highest"):
            y = blockwise_feedforward(
                lambda params, x: jax.nn.gelu(x @ params[0]) @ params[1], (up, down), x, chunk=chunk
            )
        return jnp.sum(y**2)

    def gradients(chunk):
        return jax.jit(jax.grad(partial(loss, chunk), argnums=(0, 1, 2)))(x, up, down)

    # Products over 8 and 32 numbers and back, gelu (ten operations), and at last a sum over 192
    # tokens.
    operations = 2 * (8 + 10 + 32) + 192
    for chunk in (7, 32, 50, 95):
        for gradient, expected in zip(gradients(chunk), gradients(96), strict=True):
            assert_close(gradient, expected, operations)


def test_gradients_of_a_feedforward_are_added_over_chunks_in_float32():
    """Each of 512 chunks adds 2. In bfloat16, whose numbers above 512 are 4 apart, a sum would stay
    there."""
    x = jnp.ones((1, 1024, 1), jnp.bfloat16)

    def loss(weight):
        y = blockwise_feedforward(lambda weight, x: x * weight, weight, x, chunk=2)
        return y.sum(dtype=jnp.float32)

    assert jax.grad(loss)(jnp.bfloat16(1)) == 1024


def test_gradients_of_memory_efficient_attention_are_added_over_chunks_in_float32(monkeypatch):
    """Chunks add 256, fourteen times 1, and 256; all over 16, as each key has a weight of 1/16.

    The sum is 526, which bfloat16 holds as 528. Added in bfloat16 it would be 512, whichever chunk
    comes first: 256 + 1 is 256 there.
    """
    monkeypatch.setattr(baselines, "CHUNK", 1)
    sizes, one, zero = np.array([256.0] + 14 * [1.0] + [256.0]), np.ones(16), np.zeros(16)
    sign = np.tile([1.0, -1.0], 8)  # of values, so that the output is 0

    def gradients(*arrays):
        query, key, value, cotangent = (jnp.bfloat16(x.reshape(1, 16, 1, 1)) for x in arrays)
        _, pull = jax.vjp(partial(memory_efficient_attention, causal=False), query, key, value)
        return [np.asarray(x, np.float64).reshape(16) for x in pull(cotangent)]

    _, dkey, dvalue = gradients(one, zero, sign, sizes)
    np.testing.assert_array_equal(dkey, sign * 528 / 16)
    np.testing.assert_array_equal(dvalue, one * 528 / 16)
    dquery, _, _ = gradients(zero, sign * sizes, sign, one)
    np.testing.assert_array_equal(dquery, one * 528 / 16)


def test_chunks_of_a_feedforward_are_as_large_as_asked_for():
    """Of any number of tokens, of which 2 times a prime has no divisor of that size."""
    seen = []

    def apply(params, x):
        seen.append(x.shape[1])
        return x * params

    for tokens in (94, 96, 66):
        seen.clear()
        x = jnp.ones((1, tokens, 2))
        np.testing.assert_array_equal(blockwise_feedforward(apply, 2.0, x, chunk=32), 2 * x)
        assert all(20 <= size <= 32 for size in seen)


@pytest.mark.parametrize("extra", [2.0, jnp.int32(3), np.ones(8, bool), jax.random.key(0)], ids=str)
def test_parameters_of_a_feedforward_that_are_no_floats(extra):
    def apply(params, x):
        weight, extra = params
        if isinstance(extra, jax.Array) and jnp.issubdtype(extra.dtype, jax.dtypes.prng_key):
            extra = jax.random.uniform(extra)
        return x @ weight * extra

    weight, x = jnp.eye(8, dtype=jnp.bfloat16), jnp.ones((1, 40, 8), jnp.bfloat16)
    found = [
        jax.grad(
            lambda weight, chunk: blockwise_feedforward(apply, (weight, extra), x, chunk=chunk).sum(
                dtype=jnp.float32
            )
        )(weight, chunk)
        for chunk in (40, 8, 9)
    ]
    for gradient in found[1:]:
        # A sum over 40 tokens, rounded to 8 bits.
        assert gradient.dtype == weight.dtype
        assert_close(gradient, found[0], 40, dtype=jnp.bfloat16)


@pytest.mark.parametrize(
    ("platform", "tokens", "chunk"),
    [("cpu", 100, 256), ("tpu", 16_000, 1000), ("gpu", 4096, 4096), ("cuda", 64_000, 16_000)],
)
def test_chunks_of_a_feedforward_by_platform(platform, tokens, chunk):
    assert default_chunk(tokens, platform) == chunk


def test_unknown_backbone_is_named():
    x = np.zeros((1, 4, 1, 8), np.float32)
    with pytest.raises(ValueError, match="did you mean 'blockwise'"):
        attention(x, x, x, backbone="blokwise")
