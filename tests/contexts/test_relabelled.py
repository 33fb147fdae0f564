"""The same trajectories under the rewards of several tasks."""

import copy
import tracemalloc

import numpy as np
import pytest

import envs
from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts import relabelled
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.relabelled import RelabelledDataset
from datasets import ActionRepeatView
from tests.seeds import SEED, rng
from tests.small_agents import TASK, describe, labelled
from tests.tolerances import assert_close


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


def test_a_repeated_task_has_the_same_rewards_each_time(data):
    a, b = envs.training_tasks(TASK, 2, rng(5))
    both = RelabelledDataset(data.store, [a, b, a], "exorl")
    episodes = np.array([0, 3, 3, 7])
    _, reward = both.load(np.array([0, 1, 2, 2]), episodes)
    for row, (task, episode) in enumerate(zip([a, b, a, a], episodes, strict=True)):
        np.testing.assert_array_equal(reward[row], data.store.rewards(task, [episode])[0])
    np.testing.assert_array_equal(both.returns[0], both.returns[2])
    assert np.abs(both.returns[0] - both.returns[1]).max() > 0


def test_loaded_rows_carry_the_rewards_of_the_task_that_was_drawn(data):
    config = AgentConfig(trajectories=4, chain_length="full", target="own")
    normalizer = data.normalizer(2.0)
    loader = ChainLoader(data, config, describe(data, config).layout(), seed=SEED, rows=6)
    tokens, chains = loader(3), loader.sampler.draw(3, 6)
    steps = int(data.store.lengths[0])
    first = (
        tokens.features[:, ::steps, 0] * normalizer.return_scale
    )  # return-to-go at the first step of each trajectory
    assert_close(
        first, data.returns[chains.task, chains.episode], steps + 3
    )  # a sum of rewards, scaled and back


def test_a_normalizer_is_measured_on_some_trajectories_and_on_the_largest_return(data, monkeypatch):
    observation = data.store.load(np.arange(data.store.episodes)).observation

    def mean_of(episodes):
        return observation[episodes].mean(axis=(0, 1), dtype=np.float64)

    whole = data.normalizer(2.0)
    np.testing.assert_allclose(whole.observation_mean, mean_of(slice(None)), rtol=1e-9, atol=1e-9)
    assert (whole.return_scale, whole.reward_scale) == (data.returns.max(), 2.0)
    costs = copy.copy(data)
    costs.returns = -data.returns
    assert costs.normalizer(2.0) == whole
    monkeypatch.setattr(relabelled, "_MEASURED", 5)
    some = data.normalizer(2.0)
    assert data.normalizer(2.0) == some != whole
    assert np.abs(mean_of(slice(5)) - some.observation_mean).max() > 1e-6  # not the first ones


def test_returns_of_many_tasks_take_little_memory(data, monkeypatch):
    """Rewards of tasks times episodes times steps never exist at once."""
    tasks = envs.training_tasks(TASK, 400, rng(6))
    whole = np.stack([data.store.rewards(task) for task in tasks])
    monkeypatch.setattr(relabelled, "_REWARDS_AT_ONCE", 1 << 10)
    tracemalloc.start()
    many = RelabelledDataset(data.store, tasks, "exorl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(many.returns, whole.sum(axis=-1, dtype=np.float64))
    # What stays is returns and tasks; a piece has 2^10 rewards, in some ten arrays of float64.
    assert peak < 3 * many.returns.nbytes + 10 * 8 * (1 << 10) + 1000 * len(tasks)
    assert peak < whole.nbytes


def test_each_row_and_step_has_its_own_tasks_reward(data):
    tasks = envs.training_tasks(TASK, 5, rng(7))
    many = RelabelledDataset(data.store, tasks, "exorl")
    table = data.store.reward_table(tasks, [3, 8])
    for row, task in enumerate(tasks):
        np.testing.assert_array_equal(table[row], data.store.rewards(task, [3, 8]))
    episode, step = np.array([3, 8, 3, 8, 3]), np.array([0, 5, 11, 2, 7])
    single = many.rewards(np.arange(5), episode, step)
    expected = [data.store.rewards(*each)[0] for each in zip(tasks, episode[:, None], strict=True)]
    np.testing.assert_array_equal(single, np.array(expected)[np.arange(5), step])
    view = ActionRepeatView(data.store, 4)
    repeated = view.rewards_of(tasks, episode, steps=1, first=np.minimum(step, 2))[:, 0]
    blocks = np.array(expected).reshape(5, 3, 4)[np.arange(5), np.minimum(step, 2)]
    np.testing.assert_array_equal(repeated, blocks.sum(axis=1, dtype=np.float64).astype("f4"))
