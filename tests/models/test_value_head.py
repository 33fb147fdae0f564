"""The value's loss has the expectile for its minimum, and better trajectories weigh more."""

import jax
import numpy as np
import pytest

from agentic_transformer.models.value_head import advantage_weight, expectile_loss
from tests.seeds import rng
from tests.tolerances import assert_close, unit


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_best_value_is_the_expectile_of_the_returns(expectile):
    """There the returns above weigh as much as those below: tau E[(G-V)+] = (1-tau) E[(V-G)+]."""
    returns = np.sort(rng(0).uniform(0, 1, 50))
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection, in float64
        value = (low + high) / 2
        above, below = np.maximum(returns - value, 0).sum(), np.maximum(value - returns, 0).sum()
        low, high = (value, high) if expectile * above > (1 - expectile) * below else (low, value)
    slope = jax.grad(lambda v: expectile_loss(returns.astype(np.float32) - v, expectile).sum())
    # A sum of 50 slopes, each at most 2, of differences.
    assert_close(slope(np.float32(value)), 0.0, len(returns) + 4, 2 * len(returns))
    assert slope(np.float32(value + 0.01)) > 0 > slope(np.float32(value - 0.01))
    if expectile == 0.5:
        assert value == pytest.approx(returns.mean())


def test_a_higher_advantage_weighs_more_up_to_twenty_times():
    advantage = np.linspace(-1, 1, 41, dtype=np.float32)
    weight = np.asarray(advantage_weight(advantage, 0.2))
    np.testing.assert_array_less(weight[:-1], weight[1:] + (weight[1:] >= 20 * (1 - 8 * unit())))
    # The exponential turns the errors of an exponent of size 5 into relative ones.
    expected = np.minimum(np.exp(advantage.astype(np.float64) / 0.2), 20)
    assert_close(weight / expected, np.ones(41), 4, 5)
    assert np.isfinite(advantage_weight(np.float32(1e30), 1e-3))


def test_imitation_does_not_pull_at_the_value():
    assert jax.grad(lambda a: advantage_weight(a, 0.1))(np.float32(0.1)) == 0
