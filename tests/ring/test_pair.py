"""The arithmetic of a pair of chunks."""

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.ring.pair import _exp


def test_exponentials_are_as_exact_as_numpys():
    x = np.linspace(-87, 2, 1_000_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    ours, theirs = (np.abs(y / exact - 1) for y in (np.asarray(jax.jit(_exp)(x)), np.exp(x)))
    # A single constant for ln 2 leaves n * 2e-9, which matters to no weight that does.
    likely = x > -10
    assert ours[likely].max() <= 1.5 * theirs[likely].max() and ours.max() <= 3e-7


def test_exponentials_of_what_is_out_of_range_harm_nothing():
    tiny, nan = np.asarray(jax.jit(_exp)(jnp.array([-1e30, jnp.nan])))
    assert 0 <= tiny < 2e-38 and np.isnan(nan)
