"""The arithmetic of the CPU kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.ring.kernels.cpu_block import exp2
from tests.tolerances import unit


@pytest.fixture(autouse=True)
def on_a_cpu():
    with jax.default_device(jax.devices("cpu")[0]):
        yield


def test_exponentials_equal_those_of_float64():
    """To 2.5 roundings: one of the sum 1 + f (...), at least 0.7; of its second part, at most 0.42,
    less than two; the series.

    The integer part is subtracted, and its power multiplied with, without an error.
    """
    x = np.linspace(-126, 3, 1_000_001, dtype=np.float32)
    assert (
        np.abs(np.asarray(jax.jit(exp2)(x)) / np.exp2(x.astype(np.float64)) - 1).max()
        <= 2.5 * unit()
    )


def test_exponentials_of_what_is_hidden_are_0_and_those_of_nan_nan():
    *hidden, nan = np.asarray(jax.jit(exp2)(jnp.array([-jnp.inf, -1e30, -128, jnp.nan])))
    assert hidden == [0, 0, 0] and np.isnan(nan)
