"""CQL: densities against scipy, the penalty against quadrature, updates against closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from agentic_transformer.config import CQLConfig
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Shape, init_networks
from agentic_transformer.training.actor_critic import init_actor_critic_state
from agentic_transformer.training.cql import (
    actor_loss,
    conservative_loss,
    log_mean_exp_values,
    make_cql_step,
)
from tests.perceptron_float64 import perceptron, set_output
from tests.seeds import SEED, rng
from tests.tolerances import SIGMAS, assert_close, assert_within, rounding

pytestmark = pytest.mark.slow

CONFIG = CQLConfig(width=8, layers=2, learning_rate=1e-2, tau=0.1, samples=3)


def fresh(actions=1, config=CONFIG):
    """Networks that see two numbers of a state."""
    graphs, params = init_networks(Shape(2, actions, config), SEED)
    return graphs, init_actor_critic_state(params, config)


def make_batch(rows, actions=1):
    seen, following = rng(0).normal(size=(2, rows, 2)).astype(np.float32)
    action = rng(1).uniform(-1, 1, (rows, actions)).astype(np.float32)
    return Transitions(seen, action, rng(2).normal(size=rows).astype(np.float32), following)


def acting(graphs, params, mean, log_std):
    """An actor whose Gaussian is the same everywhere."""
    return nnx.merge(graphs.actor, set_output(params["actor"], [*mean, *log_std]))


def test_actions_have_the_distribution_and_the_density_that_scipy_gives_them():
    graphs, state = fresh(actions=2)
    mean, log_std = np.array([0.3, -0.2]), np.array([-0.5, -1.5])
    actor = acting(graphs, state.params, mean, log_std)
    action, log_density = actor.sample(jnp.zeros((5, 2)), jax.random.key(SEED), 2000)
    assert action.shape == (2000, 5, 2) and log_density.shape == (2000, 5)
    action = np.asarray(action, np.float64)
    assert np.abs(action).max() < 1
    gaussian = scipy.stats.norm(mean, np.exp(log_std))
    u = np.arctanh(action)
    expected = (gaussian.logpdf(u) - np.log(1 - action**2)).sum(axis=-1)
    # The rounding of an action moves u by 1 / (1 - a^2) of it, and the density by the score.
    score = np.abs((u - mean) / np.exp(2 * log_std)) + 2
    size = (score / (1 - action**2) + np.abs(gaussian.logpdf(u)) + 4).sum(axis=-1)
    assert_close(log_density, expected, 24, size)
    for index in range(2):
        cdf = scipy.stats.norm(mean[index], np.exp(log_std[index])).cdf
        drawn = np.arctanh(action[..., index]).ravel()
        # Kolmogorov's statistic of n draws is above 2.7 / sqrt(n) once in a million times.
        assert scipy.stats.kstest(drawn, cdf).statistic < 2.7 / np.sqrt(len(drawn))
    np.testing.assert_array_equal(np.sign(actor(jnp.zeros((1, 2)))), [[1, -1]])
    assert_close(actor(jnp.zeros((1, 2)))[0], np.tanh(mean), 12)


def test_the_density_is_finite_where_an_action_rounds_to_one():
    graphs, state = fresh()
    actor = acting(graphs, state.params, [12.0], [-10.0])

    def total(actor):
        action, log_density = actor.sample(jnp.zeros((4, 2)), jax.random.key(0), 3)
        return log_density.sum(), action

    (log_density, action), grads = nnx.value_and_grad(total, has_aux=True)(actor)
    assert (np.asarray(action) == 1).all() and np.isfinite(log_density)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_the_penalty_estimates_the_integral_over_all_actions():
    graphs, state = fresh()
    batch = make_batch(rows=4)
    critics = nnx.merge(graphs.critics, state.params["critics"])

    # The midpoint rule: its error on smooth pieces is below 1e-7 with so many points.
    points = (np.arange(4000) + 0.5) / 2000 - 1
    seen = np.concatenate(
        [np.repeat(batch.observation, len(points), axis=0), np.tile(points, 4)[:, None]], axis=1
    )
    values = [perceptron(layers, seen)[:, 0].reshape(4, -1) for layers in critics.twins]
    exact = np.log(2 * np.exp(values).mean(axis=-1))  # (2, 4)
    count = 4000
    even = rng(3).uniform(-1, 1, (count, 4, 1)).astype(np.float32)
    actor = acting(graphs, state.params, [0.2], [-0.3])
    drawn = actor.sample(batch.observation, jax.random.key(1), count)
    proposals = [(even, jnp.full((count, 4), -np.log(2))), drawn]
    for used in (proposals[:1], proposals[1:], proposals):
        found = log_mean_exp_values(graphs, state.params["critics"], batch, used)
        ratios = np.concatenate(
            [np.exp(critics(jnp.stack([batch.observation] * count), a) - p) for a, p in used],
            axis=1,
        )
        deviation = ratios.std(axis=1) / ratios.mean(axis=1) / np.sqrt(ratios.shape[1])
        assert (np.abs(found - exact) < SIGMAS * deviation + 1e-5).all()


def test_the_critics_loss_is_that_of_the_paper():
    config = replace(CONFIG, alpha=0.7)
    graphs, state = fresh(actions=2, config=config)
    batch, target = make_batch(rows=16, actions=2), rng(4).normal(size=16)
    even = rng(5).uniform(-1, 1, (6, 16, 2)).astype(np.float32)
    log_even = np.full((6, 16), -2 * np.log(2), np.float32)
    params = state.params["critics"]
    loss, (penalty, value) = conservative_loss(
        graphs, params, config, batch, target, [(even, log_even)]
    )

    def values(layers, action):
        seen = np.concatenate([np.broadcast_to(batch.observation, action.shape), action], axis=-1)
        return perceptron(layers, seen.astype(np.float64))[..., 0]

    error = gap = total = 0.0
    for layers in nnx.merge(graphs.critics, params).twins:
        q = values(layers, batch.action)
        anywhere = np.log(np.exp(values(layers, even)).mean(axis=0) * 4)  # of a square of area 4
        error, gap, total = (
            error + ((q - target) ** 2).mean(),
            gap + (anywhere - q).mean(),
            total + q.mean() / 2,
        )
    operations = 2 * (4 + 2 * config.width + 6) + 16 + 6
    assert_close(value, total, operations, 4)
    assert_close(penalty, gap, operations, 8)
    assert_close(loss, error + 0.7 * gap, operations, 8 + 4 * np.abs(target).max() ** 2)


def test_critics_of_one_value_are_punished_by_the_logarithm_of_the_volume_of_actions():
    graphs, state = fresh(actions=3)
    batch = make_batch(rows=8, actions=3)
    critics = jax.tree.map(jnp.zeros_like, state.params["critics"])
    even = rng(6).uniform(-1, 1, (5, 8, 3))
    proposals = [(even, np.full((5, 8), -3 * np.log(2)))]
    loss, (penalty, value) = conservative_loss(
        graphs, critics, CONFIG, batch, np.zeros(8), proposals
    )
    assert_close(penalty, 2 * np.log(2**3), 8)
    assert float(value) == 0
    assert_close(loss, CONFIG.alpha * 2 * np.log(2**3), 10)


def test_the_actor_weighs_entropy_against_the_smaller_value():
    graphs, state = fresh(actions=2)
    batch, key, weight = make_batch(rows=16, actions=2), jax.random.key(3), 0.3
    loss, mean_log = actor_loss(
        graphs, state.params["actor"], state.params["critics"], weight, batch, key
    )
    actor = nnx.merge(graphs.actor, state.params["actor"])
    (action,), (log_density,) = actor.sample(batch.observation, key, 1)
    seen = np.concatenate([batch.observation, action], axis=-1).astype(np.float64)
    twins = nnx.merge(graphs.critics, state.params["critics"]).twins
    smaller = np.minimum(*(perceptron(layers, seen)[:, 0] for layers in twins))
    log_density = np.asarray(log_density, np.float64)
    operations = 2 * (4 + 2 * CONFIG.width + 6) + 16
    assert_close(mean_log, log_density.mean(), 16, np.abs(log_density).max())
    size = np.abs(smaller).max() + np.abs(log_density).max()
    assert_close(loss, (weight * log_density - smaller).mean(), operations, size)


@pytest.mark.parametrize(("log_std", "moves"), [(-6.0, 1), (0.0, -1)])
def test_the_entropy_weight_rises_only_while_the_entropy_is_below_its_target(log_std, moves):
    """The target is -A. Adam's first step is of the learning rate, whatever the gradient.

    Adam divides by the root of 1 - 0.999, which rounds by 2^-25 / 0.001 of itself.
    """
    graphs, state = fresh(actions=2)
    actor = set_output(state.params["actor"], [0.0, 0.0, log_std, log_std])
    state = state._replace(params=state.params | {"actor": actor})
    after, _ = make_cql_step(graphs, CONFIG, SEED)(state, make_batch(rows=16, actions=2))
    found = after.params["entropy_weight"]["log"][...]
    rate = CONFIG.learning_rate
    assert_within(np.asarray(found), moves * rate, rate * 2**-25 / 0.001)


def test_a_step_moves_every_network_once_and_the_target_critics_by_their_share():
    graphs, state = fresh(actions=2)
    other = init_networks(Shape(2, 2, CONFIG), SEED + 1)[1]["critics"]
    state = state._replace(params=state.params | {"target_critics": other})
    before = jax.tree.map(np.array, state.params)
    after, metrics = make_cql_step(graphs, CONFIG, SEED)(state, make_batch(rows=16, actions=2))
    assert metrics.keys() == {"loss", "penalty", "value"}
    expected = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * np.asarray(new),
        before["target_critics"],
        after.params["critics"],
    )
    jax.tree.map(lambda x, y: assert_close(x, y, 3), after.params["target_critics"], expected)
    assert int(after.step) == 1
    counts = {name: int(adam.count) for name, (adam, _) in after.optimizer.items()}
    assert counts == {"actor": 1, "critics": 1, "entropy_weight": 1}


@pytest.mark.parametrize(("discount", "entropy"), [(0.0, -4.0), (0.9, -4.0), (0.9, 0.0)])
def test_the_target_is_the_reward_and_the_discounted_value_without_entropy(discount, entropy):
    """Critics of one value q make an error of (q - r - discount q)^2, however random the actor."""
    config = replace(CONFIG, discount=discount, alpha=0.0)
    graphs, state = fresh(config=config)
    params = state.params | {"actor": set_output(state.params["actor"], [0.0, entropy])}
    for name in ("critics", "target_critics"):
        twins = set_outputs(params[name], 2.0)
        params |= {name: twins}
    state, batch = state._replace(params=params), make_batch(rows=16)
    _, metrics = make_cql_step(graphs, config, SEED)(state, batch)
    expected = 2 * ((2 - batch.reward.astype(np.float64) - discount * 2) ** 2).mean()
    assert_close(metrics["loss"], expected, 32, 2 * (4 + np.abs(batch.reward).max()) ** 2)
    assert_close(metrics["value"], 2.0, 4)


def test_the_target_is_of_the_target_critics_and_of_the_actors_next_action():
    """The actor is almost certain, so that its draw is its mean."""
    config = replace(CONFIG, discount=0.9, alpha=0.0)
    graphs, state = fresh(config=config)
    other = init_networks(Shape(2, 1, config), SEED + 1)[1]["critics"]
    actor = state.params["actor"]
    last = actor["layers"][max(actor["layers"])]
    last["kernel"][...] = last["kernel"][...].at[:, 1].set(0)
    last["bias"][...] = last["bias"][...].at[1].set(-10)  # the logarithm of the deviation
    state = state._replace(params=state.params | {"actor": actor, "target_critics": other})
    before, batch = jax.tree.map(np.array, state.params), make_batch(rows=16)
    _, metrics = make_cql_step(graphs, config, SEED)(state, batch)

    def values(name, observation, action):
        seen = np.concatenate([observation, action], axis=-1).astype(np.float64)
        twins = nnx.merge(graphs.critics, before[name]).twins
        return np.stack([perceptron(layers, seen)[:, 0] for layers in twins])

    layers = nnx.merge(graphs.actor, before["actor"]).layers
    action = np.tanh(perceptron(layers, batch.next_observation.astype(np.float64))[:, :1])
    following = values("target_critics", batch.next_observation, action).min(axis=0)
    q = values("critics", batch.observation, batch.action)
    error = q - batch.reward - 0.9 * following
    # The draw differs from the mean by up to 6 deviations of e^-10, times the slope of a critic.
    moved = values("target_critics", batch.next_observation, action + 6 * np.exp(-10))
    slope = np.abs(moved.min(axis=0) - following).max()
    operations = 2 * (4 + 2 * config.width + 6) + 16
    size = 4 * (np.abs(q).max() + np.abs(batch.reward).max() + np.abs(following).max()) ** 2
    bound = 2 * rounding(operations) * size + 2 * 2 * 2 * slope * np.abs(error).max()
    assert_within(metrics["loss"], (error**2).mean(axis=1).sum(), bound)


def set_outputs(state, value):
    """Makes the outputs of both critics the same for every input."""
    state = jax.tree.map(jnp.zeros_like, state)
    for layers in state["twins"].values():
        layers[max(layers)]["bias"][...] = jnp.full(1, value)
    return state


@pytest.mark.parametrize(("alpha", "least", "most"), [(0.0, 0.7, 1.0), (0.3, 0.2, 0.6)])
def test_the_penalty_keeps_the_actor_near_the_actions_of_the_data(alpha, least, most):
    """An action pays what it is, and the data hold actions from -0.6 to 0.6 alone.

    Without the penalty the critics continue the slope, and the actor goes to the largest action.
    """
    config = CQLConfig(width=32, learning_rate=3e-3, discount=0.0, alpha=alpha)
    graphs, params = init_networks(Shape(1, 1, config), SEED)
    state, step = init_actor_critic_state(params, config), make_cql_step(graphs, config, SEED)
    action = np.linspace(-0.6, 0.6, 64, dtype=np.float32)[:, None]
    seen = np.ones((64, 1), np.float32)
    for _ in range(1500):
        state, _ = step(state, Transitions(seen, action, action[:, 0], seen))
    found = float(nnx.merge(graphs.actor, state.params["actor"])(seen)[0, 0])
    assert least < found < most
