"""TD3 of a told learner: targets and losses against NumPy in float64; it learns what it is told."""

import jax
import numpy as np
import pytest
from flax import nnx

from agentic_transformer.config import TD3Config
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Shape, init_networks
from agentic_transformer.online.td3 import TD3Learner
from agentic_transformer.training.actor_critic import critic_loss, critic_target
from agentic_transformer.training.td3_bc import td3_actor_loss
from tests.perceptron_float64 import perceptron
from tests.seeds import SEED, rng
from tests.tolerances import assert_close

pytestmark = pytest.mark.slow

BATCH, OBSERVATION, ACTION = 32, 5, 2
CONFIG = TD3Config(width=16, layers=2, noise=0.0)


def test_targets_and_losses_are_those_of_the_paper():
    graphs, params = init_networks(Shape(OBSERVATION, ACTION, CONFIG, layer_norm=True), SEED)
    data = rng(0)
    batch = Transitions(
        observation=data.normal(size=(BATCH, OBSERVATION)).astype(np.float32),
        action=data.uniform(-1, 1, (BATCH, ACTION)).astype(np.float32),
        reward=data.random(BATCH).astype(np.float32),
        next_observation=data.normal(size=(BATCH, OBSERVATION)).astype(np.float32),
    )
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), batch)
    actor = nnx.merge(graphs.actor, params["actor"])
    critics = nnx.merge(graphs.critics, params["critics"])

    def values(observation, action):
        seen = np.concatenate([observation, action], axis=-1)
        return np.stack([perceptron(layers, seen)[:, 0] for layers in critics.twins])

    # y = r + gamma min_i Q_i(s', pi(s')); the targets are still copies of the networks.
    following = np.tanh(perceptron(actor.layers, exact.next_observation))
    target = exact.reward + CONFIG.discount * values(exact.next_observation, following).min(axis=0)
    found = critic_target(graphs, params, CONFIG, batch, jax.random.key(0))
    # Through the actor and then a critic: products over the inputs and twice the width, and for
    # each hidden layer two sums over the width, a root, and about six operations more. A normalized
    # layer divides by a deviation, which makes an error larger by the ratio of the numbers' size to
    # their deviation: less than 4 for each of two layers.
    width = CONFIG.width
    operations = 2 * (OBSERVATION + ACTION + 2 * width + 2 * (2 * width + 7))
    magnitude = 4**2 * np.abs(target).max()
    assert_close(found, target, operations, magnitude)
    loss, mean = critic_loss(graphs, params["critics"], batch, np.float32(target))
    value = values(exact.observation, exact.action)
    expected = ((value - target) ** 2).mean(axis=1).sum()
    # A square has twice the relative error of the difference.
    assert_close(loss, expected, operations + BATCH, 4 * magnitude * np.sqrt(expected))
    assert_close(mean, value.mean(), operations + BATCH, 16 * np.abs(value).max())
    action = np.tanh(perceptron(actor.layers, exact.observation))
    expected = -values(exact.observation, action)[0].mean()
    found = td3_actor_loss(graphs, params["actor"], params["critics"], CONFIG, batch)
    assert_close(found, expected, operations + BATCH, 16 * max(1, np.abs(value).max()))


def test_it_learns_what_it_is_told():
    """Each step pays 1 - |a - p| for the told p. The best action is p itself, the mean earns 0.5.

    No state follows from an action, so that values are the rewards' means, whatever the discount.
    """
    config = TD3Config(width=32, layers=1, batch=64, discount=0.5, learning_rate=3e-3)
    learner, data, updates = TD3Learner(2, 1, config, SEED), rng(1), 800
    seen = data.uniform(-1, 1, (updates, config.batch, 2)).astype(np.float32)
    following = data.uniform(-1, 1, seen.shape).astype(np.float32)
    action = data.uniform(-1, 1, (updates, config.batch, 1)).astype(np.float32)
    reward = (1 - np.abs(action - seen[..., 1:])[..., 0]) * np.float32(1 - config.discount)
    learner.learn(Transitions(seen, action, reward, following))
    told = np.linspace(-0.8, 0.8, 9, dtype=np.float32)
    found = learner.act(np.stack([np.zeros_like(told), told], axis=1))[:, 0]
    assert np.abs(found - told).mean() < 0.2
