"""The same trajectories under the rewards of several tasks."""

import numpy as np
import pytest

import envs
from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.relabelled import RelabelledDataset
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
    config = AgentConfig(trajectories=4, length="full", target="own")
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
