"""The arithmetic of a pair of chunks."""

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.ring.pair import _exp


def test_exponentials_equal_those_of_float64():
    x = np.linspace(-87, 2, 1_000_001, dtype=np.float32)
    assert np.abs(np.asarray(jax.jit(_exp)(x)) / np.exp(x.astype(np.float64)) - 1).max() <= 1.5e-7


def test_exponentials_of_what_is_out_of_range_harm_nothing():
    tiny, nan = np.asarray(jax.jit(_exp)(jnp.array([-1e30, jnp.nan])))
    assert 0 <= tiny < 2e-38 and np.isnan(nan)
