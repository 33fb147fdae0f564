"""TD3+BC: targets and losses against NumPy, the schedule of updates, checkpoints, evaluation."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

import datasets
from agentic_transformer.config import AgentConfig, TD3BCConfig, TrainCommand
from agentic_transformer.contexts.transitions import TransitionLoader
from agentic_transformer.models.actor_critic import Shape, init_networks
from agentic_transformer.training.actor_critic import critic_target, init_actor_critic_state
from agentic_transformer.training.td3_bc import (
    TD3BCLearner,
    actor_loss,
    make_td3_bc_step,
    td3_actor_loss,
)
from tests.perceptron_float64 import perceptron
from tests.seeds import SEED
from tests.small_agents import describe, labelled
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.slow

CONFIG = TD3BCConfig(width=8, layers=2, batch=16, learning_rate=1e-2, tau=0.1)
AGENT = AgentConfig(name="td3_bc", learner="td3_bc", trajectories=1, reward_scale=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(folder):
    return labelled(folder)


@pytest.fixture(scope="module")
def spec(data):
    return replace(describe(data, AGENT), td3_bc=CONFIG)


@pytest.fixture
def loader(data, spec):
    return TransitionLoader(data, spec.layout(), CONFIG.batch, seed=SEED)


def fresh(spec, config=CONFIG, seed=SEED):
    graphs, params = init_networks(Shape.of(replace(spec, td3_bc=config)), seed=seed)
    return graphs, init_actor_critic_state(params, config)


def read_episodes(folder):
    """All rows of the episodes on disk, that after the last step included: (E, T + 1, O)."""
    paths = sorted(folder.rglob("buffer/*.npz"))
    return np.stack([datasets.read_episode(path).observation for path in paths])


def test_transitions_are_rows_of_the_data_under_a_task(data, folder, loader, spec):
    trajectories, rows = data.store.load(np.arange(data.store.episodes)), read_episodes(folder)
    mean, std = (
        np.array(spec.normalizer.observation_mean),
        np.array(spec.normalizer.observation_std),
    )
    size = (np.abs(trajectories.observation).max(axis=(0, 1)) + np.abs(mean)).max() / std.min()
    drawn = set()
    found = TransitionLoader(data, spec.layout(), 200, seed=SEED)(5)
    for observation, action, reward, following in zip(*found, strict=True):
        # A subtraction and a division of float32, of numbers as large as mean and observation are
        # in deviations.
        alike = (
            np.abs((trajectories.observation - mean) / std - observation).max(axis=2)
            < 4 * rounding(3) * size
        )
        ((episode, step),) = np.argwhere(alike & (trajectories.action == action).all(axis=2))
        drawn.add(step)
        assert_close(following * std + mean, rows[episode, step + 1], 5, size * std.max())
        paid = [
            data.load(np.array([task]), np.array([episode]))[1][0, step]
            for task in range(len(data.returns))
        ]
        assert np.abs(np.array(paid) * spec.normalizer.reward_scale - reward).min() <= rounding(
            2
        ) * np.abs(reward)
    # Each of 12 steps is missed by 200 draws once in 3e7 times.
    assert drawn == set(range(spec.steps))
    found, again = loader(5), loader(5)
    jax.tree.map(np.testing.assert_array_equal, again, found)
    assert not np.array_equal(loader(6).action, found.action)
    other = TransitionLoader(data, spec.layout(), CONFIG.batch, seed=SEED + 1)
    assert not np.array_equal(other(5).action, found.action)


def test_targets_and_losses_are_those_of_the_paper(spec, loader):
    config = TD3BCConfig(width=8, layers=2, noise=0.0)
    graphs, state = fresh(spec, config)
    batch = jax.tree.map(lambda x: np.asarray(x, np.float64), loader(0))
    actor, critics = (
        nnx.merge(graphs.actor, state.params["actor"]),
        nnx.merge(graphs.critics, state.params["critics"]),
    )

    def values(observation, action):
        seen = np.concatenate([observation, action], axis=-1)
        return np.stack([perceptron(layers, seen)[:, 0] for layers in critics.twins])

    following = np.tanh(perceptron(actor.layers, batch.next_observation))
    expected = batch.reward + 0.99 * values(batch.next_observation, following).min(axis=0)
    found = critic_target(graphs, state.params, config, loader(0), jax.random.key(0))
    # Products over observation and action, width and width, through the actor and then a critic.
    operations = 2 * (spec.observation_size + spec.action_size + 2 * config.width + 6)
    assert_close(found, expected, operations)
    action = np.tanh(perceptron(actor.layers, batch.observation))
    value = values(batch.observation, action)[0]
    loss = ((action - batch.action) ** 2).mean() - 2.5 * value.mean() / np.abs(value).mean()
    made = actor_loss(graphs, state.params["actor"], state.params["critics"], config, loader(0))
    assert_close(made, loss, operations + len(value), max(2.5, abs(loss)))
    networks = (state.params["actor"], state.params["critics"])
    td3 = td3_actor_loss(graphs, *networks, config, loader(0))
    assert_close(td3, -value.mean(), operations + len(value), np.abs(value).max())
    critic_loss = ((values(batch.observation, batch.action) - expected) ** 2).mean(axis=1).sum()
    _, metrics = make_td3_bc_step(graphs, config, seed=SEED)(state, loader(0))
    # Squares double a relative error; differences are of numbers as large as the targets.
    assert_close(
        metrics["loss"],
        critic_loss,
        operations + len(value),
        4 * np.abs(expected).max() * np.sqrt(critic_loss),
    )


def test_targets_are_those_of_the_target_networks_for_smoothed_actions(spec, loader):
    config, key = TD3BCConfig(width=8, layers=2, noise=2.0, noise_clip=0.7), jax.random.key(3)
    graphs, state = fresh(spec, config)
    _, other = fresh(spec, config, seed=SEED + 1)
    params = state.params | {
        name: other.params[name] for name in ("target_actor", "target_critics")
    }
    batch = jax.tree.map(lambda x: np.asarray(x, np.float64), loader(0))
    actor = nnx.merge(graphs.actor, params["target_actor"])
    critics = nnx.merge(graphs.critics, params["target_critics"])
    epsilon = np.clip(2.0 * np.asarray(jax.random.normal(key, batch.action.shape)), -0.7, 0.7)
    action = np.tanh(perceptron(actor.layers, batch.next_observation)) + epsilon
    assert (np.abs(epsilon) == 0.7).any() and (np.abs(action) > 1).any()
    seen = np.concatenate([batch.next_observation, np.clip(action, -1, 1)], axis=-1)
    values = np.stack([perceptron(layers, seen)[:, 0] for layers in critics.twins])
    found = critic_target(graphs, params, config, loader(0), key)
    operations = 2 * (spec.observation_size + spec.action_size + 2 * config.width + 6)
    assert_close(found, batch.reward + 0.99 * values.min(axis=0), operations)


def test_noise_is_drawn_by_the_seed_and_the_step(spec, loader):
    config = TD3BCConfig(width=8, noise=1.0)
    steps = {seed: make_td3_bc_step(fresh(spec, config)[0], config, seed) for seed in (1, 2)}
    losses = []
    for seed, at in ((1, 0), (1, 2), (2, 0), (1, 0)):
        _, state = fresh(spec, config)
        state = state._replace(step=state.step + at)
        losses.append(float(steps[seed](state, loader(0))[1]["loss"]))
    assert losses[0] == losses[3] and len(set(losses)) == 3


def test_the_actor_and_the_targets_move_every_second_step(spec, loader):
    graphs, state = fresh(spec)
    step = make_td3_bc_step(graphs, CONFIG, seed=SEED)
    for number in range(4):
        before = jax.tree.map(np.array, state.params)
        state, _ = step(state, loader(number))
        moved = {
            name: any(
                jax.tree.leaves(
                    jax.tree.map(
                        lambda x, y: not np.array_equal(x, y), before[name], state.params[name]
                    )
                )
            )
            for name in before
        }
        late = number % 2 == 1
        assert moved == {
            "actor": late,
            "critics": True,
            "target_actor": late,
            "target_critics": late,
        }
    assert int(state.step) == 4
    counts = {name: int(adam.count) for name, (adam, _) in state.optimizer.items()}
    assert counts == {"actor": 2, "critics": 4}


def test_targets_follow_by_their_share(spec, loader):
    graphs, state = fresh(spec, TD3BCConfig(width=8, tau=0.25, delay=1))
    before = jax.tree.map(np.array, state.params["target_critics"])
    after, _ = make_td3_bc_step(graphs, TD3BCConfig(width=8, tau=0.25, delay=1), seed=SEED)(
        state, loader(0)
    )
    expected = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * np.asarray(new), before, after.params["critics"]
    )
    jax.tree.map(lambda x, y: assert_close(x, y, 3), after.params["target_critics"], expected)


def test_without_value_it_clones_behaviour(spec, loader):
    """With alpha 0 the actor's loss is the squared error alone, and falls to it."""
    config = TD3BCConfig(width=32, alpha=0.0, learning_rate=1e-2, delay=1)
    graphs, state = fresh(spec, config)
    step, batch = make_td3_bc_step(graphs, config, seed=SEED), loader(0)

    def error(state):
        action = nnx.merge(graphs.actor, state.params["actor"])(batch.observation)
        return float(np.mean((np.asarray(action) - batch.action) ** 2))

    first = error(state)
    for _ in range(300):
        state, _ = step(state, batch)
    assert error(state) < 0.1 * first


def test_the_learner_td3_does_not_clone(data, spec):
    actors, seed = {}, SEED + 3
    for name in ("td3", "td3_bc"):
        config = TrainCommand(seed=seed, agent=replace(AGENT, learner=name), td3_bc=CONFIG)
        learner = TD3BCLearner(config, data, spec)
        state = learner.init_state()
        for number in range(2):
            state, _ = learner.train_step(state, learner.make_batch(number))
        actors[name] = jax.tree.leaves(state.params["actor"])
        graphs, expected = fresh(spec, seed=seed)
        step = make_td3_bc_step(graphs, CONFIG, seed, clones=name == "td3_bc")
        batches = TransitionLoader(data, spec.layout(), CONFIG.batch, seed)
        for number in range(2):
            expected, _ = step(expected, batches(number))
        jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
    assert any(not np.array_equal(*pair) for pair in zip(*actors.values(), strict=True))
