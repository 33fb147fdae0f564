"""Splash attention on rings of virtual devices, computed by Pallas's interpreter."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring import ring_attention, to_layout
from agentic_transformer.ring.kernels import SplashKernel
from tests.attention_float64 import assert_attention, attention_and_bounds
from tests.multidevice.test_ring_attention import draw, in_order, make_mesh, with_gradients
from tests.seeds import rng

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("ring", "layout", "dtype", "mask"),
    [
        (2, "contiguous", "float32", {}),
        (3, "zigzag", "float32", {}),
        (4, "zigzag", "float32", {"causal": False}),
        (5, "zigzag", "float32", {"length": 61}),
        (8, "contiguous", "bfloat16", {"segments": 3}),
    ],
)
def test_output_and_gradients_equal_float64(ring, layout, dtype, mask):
    """Gradients are right only if no cotangent of a log-sum-exp is lost between the devices."""
    arrays = [jnp.asarray(x, dtype) for x in draw(rng(7), 1, 16 * ring, 2, 1, 16)]
    mask = dict(mask)
    if segments := mask.pop("segments", None):
        # Not sorted: queries see nothing of some blocks, and parts of others.
        mask["segment_ids"] = np.arange(16 * ring, dtype=np.int32)[None] // 5 % segments
    exact, bounds = attention_and_bounds(*map(np.asarray, arrays), **mask, products=dtype)
    if "segment_ids" in mask:
        mask["segment_ids"] = to_layout(mask["segment_ids"], ring, layout)
    attend = partial(
        ring_attention,
        mesh=make_mesh(ring),
        layout=layout,
        kernel=SplashKernel(interpret=True),
        **mask,
    )
    results = with_gradients(attend, *(to_layout(x, ring, layout) for x in arrays))
    found = in_order([x.astype(jnp.float32) for x in results], ring, layout)
    assert_attention(found, exact, bounds, dtype)
