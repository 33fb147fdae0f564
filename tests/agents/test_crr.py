"""CRR: advantages and losses against NumPy, its noise, its updates, and what it prefers."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from agentic_transformer.config import CRRConfig
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Shape, init_networks
from agentic_transformer.training.actor_critic import (
    critic_target,
    init_actor_critic_state,
    noisy_action,
)
from agentic_transformer.training.crr import actor_loss, advantage, make_crr_step
from tests.perceptron_float64 import perceptron
from tests.seeds import SEED, rng
from tests.tolerances import SIGMAS, assert_close, assert_within, rounding

pytestmark = pytest.mark.slow

CONFIG = CRRConfig(width=16, layers=2, learning_rate=1e-2, tau=0.1, samples=3)
ROWS, OBSERVATION, ACTION = 16, 3, 2
# Through an actor and a critic: products over the inputs and twice the width; for each hidden layer
# two sums over the width, a root, and about six operations more.
OPERATIONS = 2 * (OBSERVATION + ACTION + 2 * CONFIG.width + 2 * (2 * CONFIG.width + 7))
# A normalized layer divides by a deviation, which makes an error larger by the ratio of the size of
# the numbers to their deviation: less than 4 for each of two layers.
ENLARGED = 16
SHAPE = Shape(OBSERVATION, ACTION, CONFIG, layer_norm=True)


@pytest.fixture
def networks():
    """Networks whose target networks differ from them, as they do after some steps."""
    graphs, params = init_networks(SHAPE, SEED)
    _, other = init_networks(SHAPE, SEED + 1)
    params |= {f"target_{name}": other[name] for name in ("actor", "critics")}
    return graphs, init_actor_critic_state(params, CONFIG)


@pytest.fixture
def batch():
    seen, following = rng(0).normal(size=(2, ROWS, OBSERVATION)).astype(np.float32)
    action = rng(1).uniform(-1, 1, (ROWS, ACTION)).astype(np.float32)
    return Transitions(seen, action, rng(2).normal(size=ROWS).astype(np.float32), following)


def smaller_value(critics, observation, action):
    seen = np.concatenate([observation, action], axis=-1).astype(np.float64)
    return np.minimum(*(perceptron(layers, seen)[..., 0] for layers in critics.twins))


def test_the_noise_is_gaussian_and_clipped():
    action = np.tile(np.float32([0.0, 0.9]), (20_000, 1))
    config = replace(CONFIG, noise=0.2, noise_clip=0.3)
    found = np.asarray(noisy_action(action, config, jax.random.key(0)), np.float64)
    # Without bounds the noise is Gaussian: Kolmogorov's statistic is above 2.7 / sqrt(n) once in
    # a million times.
    free = found[np.abs(found[:, 0]) < 0.3, 0]
    cut = scipy.stats.truncnorm(-1.5, 1.5, scale=0.2)
    assert scipy.stats.kstest(free, cut.cdf).statistic < 2.7 / np.sqrt(len(free))
    assert np.abs(found[:, 0]).max() == np.float32(0.3) and found[:, 1].max() == 1
    assert_close(found[:, 1].min(), 0.6, 2)
    # As many as should are at the bounds.
    expected = 2 * scipy.stats.norm.sf(1.5)
    share = np.mean(np.abs(found[:, 0]) == np.float32(0.3))
    assert abs(share - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / len(found))


def test_the_advantage_is_over_the_mean_value_of_the_actors_own_actions(networks, batch):
    graphs, state = networks
    parts = (state.params["actor"], state.params["critics"])
    actor, critics = nnx.merge(graphs.actor, parts[0]), nnx.merge(graphs.critics, parts[1])
    value = smaller_value(critics, batch.observation, batch.action)
    action = np.tanh(perceptron(actor.layers, batch.observation.astype(np.float64)))
    own = smaller_value(critics, batch.observation, action)
    exact = replace(CONFIG, noise=0.0)
    found = advantage(graphs, *parts, exact, batch, jax.random.key(0))
    size = ENLARGED * (np.abs(value).max() + np.abs(own).max())
    assert_close(found, value - own, OPERATIONS + CONFIG.samples, size)

    # With noise, the mean over draws is that over the distribution, here by many other draws.
    many = replace(CONFIG, samples=2000)
    found = advantage(graphs, *parts, many, batch, jax.random.key(1))
    noise = np.clip(rng(3).normal(0, CONFIG.noise, (2000, ROWS, ACTION)), -0.5, 0.5)
    seen = np.broadcast_to(batch.observation, (2000, ROWS, OBSERVATION))
    others = smaller_value(critics, seen, np.clip(action + noise, -1, 1))
    deviation = others.std(axis=0) * np.sqrt(2 / 2000)
    assert (np.abs(found - (value - others.mean(axis=0))) < SIGMAS * deviation + 1e-5).all()


def test_the_actor_clones_actions_with_an_advantage_alone(networks, batch):
    graphs, state = networks
    better = rng(4).normal(size=ROWS).astype(np.float32)
    better[0] = 0
    actor = nnx.merge(graphs.actor, state.params["actor"])
    action = np.tanh(perceptron(actor.layers, batch.observation.astype(np.float64)))
    error = sum(
        ((action[row] - batch.action[row]) ** 2).sum() for row in range(ROWS) if better[row] > 0
    )
    found = actor_loss(graphs, state.params["actor"], batch, better)
    assert_close(found, error / (ROWS * ACTION), OPERATIONS + ROWS, 4 * ENLARGED)


def test_a_step_updates_critics_actor_and_targets_in_turn(networks, batch):
    graphs, state = networks
    config = replace(CONFIG, noise=0.0)
    before = jax.tree.map(np.array, state.params)
    target = critic_target(graphs, state.params, config, batch, jax.random.key(0))
    after, metrics = make_crr_step(graphs, config, SEED)(state, batch)
    critics = nnx.merge(graphs.critics, before["critics"])
    seen = np.concatenate([batch.observation, batch.action], axis=-1).astype(np.float64)
    values = np.stack([perceptron(layers, seen)[:, 0] for layers in critics.twins])
    size = 4 * ENLARGED * (np.abs(target).max() + np.abs(values).max()) ** 2
    expected = ((values - np.asarray(target, np.float64)) ** 2).mean(axis=1).sum()
    assert_close(metrics["loss"], expected, OPERATIONS + ROWS, size)
    size = ENLARGED * np.abs(values).max()
    assert_close(metrics["value"], values.mean(), OPERATIONS + ROWS, size)

    # The advantage is of the critics after their update, and of the actor before its own.
    critics = nnx.merge(graphs.critics, after.params["critics"])
    actor = nnx.merge(graphs.actor, before["actor"])
    action = np.tanh(perceptron(actor.layers, batch.observation.astype(np.float64)))
    better = smaller_value(critics, batch.observation, batch.action) > smaller_value(
        critics, batch.observation, action
    )
    assert_close(metrics["imitated"], better.mean(), 2)
    gradient = (better[:, None] * (action - batch.action) * (1 - action**2)).mean(axis=0)
    last = max(before["actor"]["layers"])
    old, new = (
        np.asarray(params["layers"][last]["bias"][...])
        for params in (before["actor"], after.params["actor"])
    )
    np.testing.assert_array_equal(np.sign(new - old), -np.sign(gradient))
    # Adam's first step is of the learning rate, whatever the gradient. It divides by the root of
    # 1 - 0.999, which rounds by 2^-25 / 0.001 of itself.
    bound = 1e-2 * 2**-25 / 0.001 + 2 * rounding(2) * np.abs(old)
    assert_within(np.abs(new - old), np.full(old.shape, 1e-2), bound)
    for name in ("actor", "critics"):
        moved = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * np.asarray(new),
            before[f"target_{name}"],
            after.params[name],
        )
        jax.tree.map(lambda x, y: assert_close(x, y, 3), after.params[f"target_{name}"], moved)


def test_it_prefers_the_best_of_four_actions():
    """A reward of 1 for a = 0.5, and of 0 for a = -0.5, 1 and -1, without a future."""
    config = CRRConfig(width=16, layers=1, learning_rate=3e-3, tau=0.1, discount=0.0)
    graphs, params = init_networks(Shape(1, 1, config, layer_norm=True), SEED)
    state, step = init_actor_critic_state(params, config), make_crr_step(graphs, config, SEED)
    action = np.tile([[0.5], [-0.5], [1.0], [-1.0]], (16, 1)).astype(np.float32)
    seen = np.ones((64, 1), np.float32)
    batch = Transitions(seen, action, (action[:, 0] == 0.5).astype(np.float32), seen)
    for _ in range(1500):
        state, metrics = step(state, batch)
    assert metrics["loss"] < 1e-4  # the critics have learned the rewards
    actor = nnx.merge(graphs.actor, state.params["actor"])
    assert metrics["imitated"] == 0.25 and abs(float(actor(seen)[0, 0]) - 0.5) < 0.02
