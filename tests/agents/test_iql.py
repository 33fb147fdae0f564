"""IQL: losses against NumPy and closed forms, and the order of updates."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from agentic_transformer.config import AgentConfig, IQLConfig
from agentic_transformer.contexts.transitions import TransitionLoader, Transitions
from agentic_transformer.models.actor_critic import Shape, init_networks
from agentic_transformer.training.actor_critic import init_actor_critic_state
from agentic_transformer.training.iql import actor_loss, make_iql_step, value_loss
from tests.perceptron_float64 import perceptron, set_output
from tests.seeds import SEED, rng
from tests.small_agents import describe, labelled
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.slow

CONFIG = IQLConfig(width=8, layers=2, batch=16, learning_rate=1e-2, tau=0.1)
AGENT = AgentConfig(name="iql", learner="iql", trajectories=1, reward_scale=1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def spec(data):
    return replace(describe(data, AGENT), iql=CONFIG)


@pytest.fixture
def loader(data, spec):
    return TransitionLoader(data, spec.layout(), CONFIG.batch, seed=SEED)


def fresh(shape, seed=SEED):
    """Networks whose target critics differ from the critics, as they do after some steps."""
    graphs, params = init_networks(shape, seed)
    other = init_networks(shape, seed + 1)[1]
    params = params | {"target_critics": other["critics"]}
    return graphs, init_actor_critic_state(params, shape.config)


def one_state(actions=1, config=CONFIG):
    """The shape of networks that see one number of a state."""
    return Shape(1, actions, config)


def slope(gradient):
    """The gradient of a loss by the last bias, which moves the output alone."""
    return np.asarray(gradient["layers"][max(gradient["layers"])]["bias"][...])


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.95])
def test_the_value_is_an_expectile_of_the_actions_values(expectile):
    """Its loss is least at the expectile that scipy finds, and rises to both sides."""
    config = replace(CONFIG, expectile=expectile)
    graphs, state = fresh(one_state())
    values = rng(1).normal(size=64)
    batch = Transitions(np.zeros((64, 1), np.float32), None, None, None)
    found = scipy.stats.expectile(values, expectile)

    def derivative(at):
        value = set_output(state.params["value"], [at])
        loss = jax.grad(lambda value: value_loss(graphs, value, config, batch, values))
        return slope(loss(value)).item()

    # A sum of 64 terms, each twice a weight times a difference, whose values are rounded before.
    size = 2 * np.abs(values - found).max() + 2 * np.abs(values).max()
    assert abs(derivative(found)) <= rounding(64 + 6) * size
    # Its second derivative is at least twice the smaller weight.
    least = 0.1 * 2 * min(expectile, 1 - expectile) - rounding(64 + 6) * size
    assert derivative(found - 0.1) <= -least < 0 < least <= derivative(found + 0.1)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_the_actor_imitates_by_the_weight_of_the_advantage(temperature):
    """Its loss is least at the mean of the actions, weighted by exp(beta A), at most 100."""
    config = replace(CONFIG, temperature=temperature)
    graphs, state = fresh(one_state(actions=2))
    advantage, action = rng(2).normal(size=64) * 2, rng(3).uniform(-0.9, 0.9, (64, 2))
    batch = Transitions(np.zeros((64, 1), np.float32), action.astype(np.float32), None, None)
    weight = np.minimum(np.exp(temperature * advantage), 100)
    assert (weight == 100).any() == (temperature == 3)
    found = weight @ action / weight.sum()
    actor = set_output(state.params["actor"], np.arctanh(found))
    loss, gradient = jax.value_and_grad(
        lambda actor: actor_loss(graphs, actor, config, batch, advantage)
    )(actor)
    # An exponential of x has the relative error of x, times x; a sum of 64; tanh and its inverse.
    operations = 64 + 2 * np.abs(temperature * advantage).max() + 12
    size = 4 * weight.mean()
    assert_close(slope(gradient), np.zeros(2), operations, size)
    assert_close(loss, (weight[:, None] * (found - action) ** 2).mean(), operations, size)


def test_a_step_makes_the_updates_of_the_paper_in_the_order_of_its_code(spec, loader):
    """Each first step of Adam is by the learning rate against the gradient's sign, in float64."""
    graphs, state = fresh(Shape.of(spec))
    before = jax.tree.map(np.array, state.params)
    batch = loader(0)
    after, metrics = make_iql_step(graphs, CONFIG)(state, batch)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), batch)

    def network(name, params):
        graph = getattr(graphs, name.removeprefix("target_"))
        return nnx.merge(graph, params[name])

    def critics(name, params):
        seen = np.concatenate([exact.observation, exact.action], axis=-1)
        return np.stack([perceptron(layers, seen)[:, 0] for layers in network(name, params).twins])

    # The critics learn from the value after its update, and start from those before theirs.
    following = perceptron(network("value", after.params).layers, exact.next_observation)[:, 0]
    target = exact.reward + CONFIG.discount * following
    error = critics("critics", before) - target
    operations = 2 * (spec.observation_size + spec.action_size + 2 * CONFIG.width + 6) + 16
    size = 4 * (np.abs(target).max() + np.abs(error).max()) * np.abs(error).max()
    assert_close(metrics["loss"], (error**2).mean(axis=1).sum(), operations, size)
    assert_close(metrics["value"], critics("critics", before).mean(), operations)

    # Value and actor learn from the target critics before the step, the actor after the value.
    q = critics("target_critics", before).min(axis=0)
    value = perceptron(network("value", before).layers, exact.observation)[:, 0]
    weight = np.where(q < value, 1 - CONFIG.expectile, CONFIG.expectile)
    moved = slope(after.params["value"]) - slope(before["value"])
    assert np.sign(moved) == np.sign((weight * (q - value)).mean())
    advantage = q - perceptron(network("value", after.params).layers, exact.observation)[:, 0]
    action = np.tanh(perceptron(network("actor", before).layers, exact.observation))
    weight = np.minimum(np.exp(CONFIG.temperature * advantage), 100)[:, None]
    gradient = (weight * (action - exact.action) * (1 - action**2)).mean(axis=0)
    moved = slope(after.params["actor"]) - slope(before["actor"])
    np.testing.assert_array_equal(np.sign(moved), -np.sign(gradient))
    # Adam's first step is of the learning rate, whatever the gradient.
    assert_close(np.abs(moved), np.full(moved.shape, 1e-2), 12, np.abs(slope(before["actor"])) + 1)

    # The target critics follow the critics by their share.
    expected = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * np.asarray(new),
        before["target_critics"],
        after.params["critics"],
    )
    jax.tree.map(lambda x, y: assert_close(x, y, 3), after.params["target_critics"], expected)
    assert int(after.step) == 1
    assert {name: int(adam.count) for name, (adam, _) in after.optimizer.items()} == {
        "actor": 1,
        "critics": 1,
        "value": 1,
    }


def test_it_prefers_the_better_of_two_actions():
    """A reward of 1 for a = 0.5 and of 0 for a = -0.5, without a future: tanh(beta / 2) / 2."""
    config = IQLConfig(width=16, layers=1, learning_rate=1e-2, tau=0.1, discount=0.0)
    graphs, params = init_networks(one_state(config=config), SEED)
    state, step = init_actor_critic_state(params, config), make_iql_step(graphs, config)
    action = np.tile([[0.5], [-0.5]], (32, 1)).astype(np.float32)
    seen = np.ones((64, 1), np.float32)
    batch = Transitions(seen, action, (action[:, 0] > 0).astype(np.float32), seen)
    for _ in range(1500):
        state, metrics = step(state, batch)
    assert metrics["loss"] < 1e-4  # the critics have learned both rewards
    actor = nnx.merge(graphs.actor, state.params["actor"])
    # An error of 0.01 in a difference of values, sqrt(loss), changes the result by 0.003.
    assert abs(float(actor(seen)[0, 0]) - np.tanh(1.5) / 2) < 0.01
