"""Every kernel conforms to its contract: attention and its gradients, as float64 has them.

A new kernel is added to KERNELS, and gets the whole test. The ring needs no devices: `vmap` over
a named axis runs the collectives of `shard_map` on one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring import (
    Chunks,
    CPUKernel,
    ReferenceKernel,
    XLAKernel,
    from_layout,
    ring_attention_shard,
    select,
    to_layout,
)
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.seeds import rng
from tests.static_kernel import StaticKernel

SMALL = Chunks(queries=8, keys=4, whole=8)
KERNELS = {
    "reference": ReferenceKernel(),
    "static": StaticKernel(),
    "xla": XLAKernel(),
    "xla in chunks": XLAKernel(SMALL._replace(rows=2)),
    "cpu": CPUKernel(),
    "cpu in chunks": CPUKernel(SMALL, min_tokens_per_head_pass=0),
}

SEQUENCE = 66
SEGMENTS = np.sort(rng(9).integers(0, 3, (2, SEQUENCE)), axis=1).astype(np.int32)

# Name: ring, layout, heads, dtype, mask. Halves of 11 tokens are padded to chunks.
CASES = {
    "one device": (1, "contiguous", (2, 2), "float32", {}),
    "causal zigzag": (3, "zigzag", (4, 2), "float32", {}),
    "causal contiguous": (3, "contiguous", (2, 1), "float16", {}),
    "full": (3, "zigzag", (4, 2), "bfloat16", {"causal": False}),
    "window": (3, "zigzag", (2, 2), "float32", {"window": 9}),
    "length": (3, "contiguous", (2, 2), "float32", {"causal": False, "length": 37}),
    "segments": (3, "zigzag", (4, 2), "float32", {"segment_ids": SEGMENTS}),
    "all": (3, "zigzag", (4, 2), "bfloat16", {"segment_ids": SEGMENTS, "window": 20, "length": 61}),
}


def on_ring(kernel, ring, layout, **mask):
    """Output and gradients of a weighted sum, of arrays in natural order."""
    options = {"axis": "ring" if ring > 1 else None, "layout": layout, "kernel": kernel}

    def split(array):  # (batch, sequence, ...) -> (ring, batch, tokens, ...)
        array = to_layout(array, ring, layout)
        shape = (array.shape[0], ring, -1, *array.shape[2:])
        return jnp.moveaxis(array.reshape(shape), 1, 0)

    def join(array):
        array = jnp.moveaxis(array, 0, 1)
        array = array.reshape(array.shape[0], -1, *array.shape[3:])
        return np.asarray(from_layout(array, ring, layout).astype(jnp.float32), np.float64)

    ids = mask.pop("segment_ids", None)
    ids = None if ids is None else split(ids)

    def shard(query, key, value, weights, ids):
        attend = partial(ring_attention_shard, segment_ids=ids, **options, **mask)
        output, pull = jax.vjp(attend, query, key, value)
        return output, *pull(weights)

    axes = (0, 0, 0, 0, None if ids is None else 0)
    shards = jax.jit(jax.vmap(shard, in_axes=axes, axis_name="ring"))
    return lambda arrays: [join(x) for x in shards(*map(split, arrays), ids)]


def draw(seed, heads, dtype="float32"):
    """Query, key, value and weights; the scores are large enough to tell kernels apart."""
    data = rng(seed)
    shapes = [(2, SEQUENCE, h, 8) for h in (*heads, heads[1], heads[0])]
    query, *arrays = (data.standard_normal(shape, np.float32) for shape in shapes)
    return [jnp.asarray(x, dtype) for x in (3 * query, *arrays)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_and_gradients_equal_float64(kernel, case):
    (ring, layout, heads, dtype, mask), kernel = CASES[case], KERNELS[kernel]
    arrays = draw(0, heads, dtype)
    if not kernel.supports_dynamic and ("window" in mask or "length" in mask):
        with pytest.raises(ValueError, match="kernel=None chooses one that does"):
            on_ring(kernel, ring, layout, **mask)(arrays)
        return
    found = on_ring(kernel, ring, layout, **mask)(arrays)
    exact, bounds = attention_and_bounds(*map(np.asarray, arrays), **mask, products=dtype)
    if "length" in mask:
        assert not any(x[:, mask["length"] :].any() for x in found)
    assert_attention(found, exact, bounds, dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_nan_reaches_what_sees_it_and_nothing_else(kernel):
    arrays, at = draw(1, (4, 2)), 40  # within a block and a chunk
    found = on_ring(KERNELS[kernel], 3, "zigzag")
    clean = found(arrays)
    for which in range(4):
        spoilt = list(arrays)
        spoilt[which] = arrays[which].at[:, at].set(jnp.nan)
        output, dquery, *_ = found(spoilt)
        assert np.isnan(output[:, at]).all() == (which < 3) and np.isnan(dquery[:, at]).all()
        np.testing.assert_array_equal(output[:, :at], clean[0][:, :at])
        np.testing.assert_array_equal(dquery[:, :at], clean[1][:, :at])


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_choice_of_a_kernel_is_explained(platform):
    kernel, reason = select(platform, jnp.bfloat16)
    assert kernel in KERNELS.values() and hash(kernel) == hash(select(platform, jnp.bfloat16)[0])
    assert type(kernel).__name__ in reason and reason.endswith(".") and "\n" not in reason
