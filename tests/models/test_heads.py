"""Drawn actions against the distribution that they are drawn from."""

import jax
import numpy as np
import pytest

from agentic_transformer.config import ModelConfig
from agentic_transformer.models.heads import action_entropy, action_loss, draw_action
from tests.seeds import SEED
from tests.tolerances import SIGMAS, assert_close, rounding

CONFIG = ModelConfig(components=3)
LOGITS, MEANS, STD = np.array([0.0, 1.0, 2.0]), np.array([-0.6, 0.0, 0.6]), 0.05
DRAWS = 20_000
OUTPUTS = np.concatenate(
    [LOGITS, np.stack([MEANS, np.full(3, np.log(STD))], axis=1).reshape(-1)]
).astype(np.float32)
"""Of a model whose components lie twelve standard deviations apart."""


def draw(temperature, noise):
    """Actions of size 1 from that mixture."""
    return np.asarray(
        draw_action(CONFIG, np.tile(OUTPUTS, (DRAWS, 1)), jax.random.key(SEED), temperature, noise)
    )[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_components_are_drawn_in_proportion_to_the_tempered_weights(temperature):
    counts = np.bincount(
        np.argmin(np.abs(draw(temperature, 1.0)[:, None] - MEANS), axis=1), minlength=3
    )
    weights = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    # Standard deviations of a binomial count
    np.testing.assert_array_less(
        np.abs(counts - DRAWS * weights), SIGMAS * np.sqrt(DRAWS * weights * (1 - weights))
    )


def test_squared_error_is_summed_over_the_entries_of_an_action():
    outputs, action = np.array([[0.5, -1.0], [0.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    loss = action_loss(ModelConfig(head="mse"), outputs, action)
    np.testing.assert_array_equal(loss, [0.25 + 4, 4])


def test_no_action_leaves_its_range():
    """Outputs may: nothing bounds them."""
    key = jax.random.key(SEED)
    far = np.array([[-3.0, 0.25, 3.0]], np.float32)
    clipped = [[-1.0, 0.25, 1.0]]
    found = draw_action(ModelConfig(head="mse"), far, key, 1.0, 1.0)
    np.testing.assert_array_equal(found, clipped)
    one = np.concatenate([[[0.0]], far, np.zeros((1, 3))], axis=1, dtype=np.float32)
    found = draw_action(ModelConfig(components=1), one, key, 1.0, 0.0)
    np.testing.assert_array_equal(found, clipped)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_noise_scales_the_deviation_within_a_component(noise):
    actions = draw(0.0, noise)  # the likeliest component alone
    exact = rounding(DRAWS)  # sums of so many actions below 1, where nothing is random
    assert actions.mean() == pytest.approx(0.6, abs=SIGMAS * noise * STD / np.sqrt(DRAWS) + exact)
    assert actions.std() == pytest.approx(noise * STD, rel=SIGMAS / np.sqrt(2 * DRAWS), abs=exact)


@pytest.mark.parametrize("log_std_min", [-3.0, -1.5])
def test_no_gaussian_is_narrower_than_the_smallest_deviation(log_std_min):
    """A component that would be narrower has the loss and the draws of the floor."""
    config, std = ModelConfig(components=1, log_std_min=log_std_min), np.exp(log_std_min)
    outputs = np.tile(
        np.array([0.0, 0.2, -9.0], np.float32), (DRAWS, 1)
    )  # logit, mean, log deviation of the only component
    expected = np.log(std * np.sqrt(2 * np.pi))
    # Exponential, difference, quotient, square, logarithm and sums of them: ten roundings of
    # numbers up to 3.
    assert_close(action_loss(config, outputs[0], np.array([0.2], np.float32)), expected, 10, 3)
    drawn = np.asarray(draw_action(config, outputs, jax.random.key(SEED), 1.0, 1.0))
    clipped = 2 * np.exp(
        -0.5 * (0.8 / std) ** 2
    )  # a share of this order is cut at 1: less than a tenth of its deviation
    assert drawn.std() == pytest.approx(std, rel=SIGMAS / np.sqrt(2 * DRAWS) + clipped)


@pytest.mark.slow
def test_entropy_of_components_far_apart_is_that_of_the_choice_and_of_the_gaussians():
    """Twelve deviations apart, no component reaches into another: H = H(w) + sum w_k H(N_k)."""
    weights = np.exp(LOGITS) / np.exp(LOGITS).sum()
    gaussian = 0.5 * np.log(2 * np.pi * np.e * STD**2)
    expected = -(weights * np.log(weights)).sum() + gaussian
    estimates = np.asarray(
        action_entropy(CONFIG, np.tile(OUTPUTS, (DRAWS, 1)), jax.random.key(SEED))
    )
    # Of an estimate: the draws' z**2 / 2 have variance 1/2 each, weighted by w_k.
    deviation = np.sqrt((weights**2).sum() / 2)
    assert abs(estimates.mean() - expected) <= SIGMAS * deviation / np.sqrt(DRAWS)


def test_entropy_of_components_that_overlap_is_the_integral():
    """Three components of an action of size 1, against a sum over a fine grid in float64."""
    log_std = np.log(0.5)
    outputs = np.concatenate(
        [LOGITS, np.stack([MEANS, np.full(3, log_std)], axis=1).reshape(-1)]
    ).astype(np.float32)
    grid = np.linspace(-8, 8, 20_001)
    weights = np.exp(LOGITS) / np.exp(LOGITS).sum()
    z = (grid[:, None] - MEANS) / 0.5
    density = (weights * np.exp(-0.5 * z**2) / (0.5 * np.sqrt(2 * np.pi))).sum(axis=1)
    inside = density > 0
    expected = -np.sum(density[inside] * np.log(density[inside])) * (grid[1] - grid[0])
    estimates = np.asarray(
        action_entropy(CONFIG, np.tile(outputs, (DRAWS, 1)), jax.random.key(SEED))
    )
    off = SIGMAS * estimates.std() / np.sqrt(DRAWS)
    assert abs(estimates.mean() - expected) <= off
