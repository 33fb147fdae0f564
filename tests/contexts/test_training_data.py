"""What the settings of the data decide: which episodes, which tasks, and what an agent is told."""

import numpy as np
import pytest

import datasets
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.training_data import training_data, training_tasks
from envs.registry import parameters
from tests.seeds import SEED
from tests.small_agents import TASK


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A buffer of twelve episodes."""
    root = tmp_path_factory.mktemp("data")
    buffer = datasets.buffer_folder(root, TASK, "pd")
    datasets.collect(TASK, buffer, episodes=12, seed=SEED, collector="pd", progress=False)
    return root


def drawn(root, seed):
    """The first observation of each of five episodes, and the training tasks."""
    config = DataConfig(root=str(root), episodes=5, tasks=3, seed=seed)
    data = training_data(TASK, config, told=True)
    numbers = np.zeros(data.store.episodes, int)
    rows = data.load(numbers, np.arange(data.store.episodes))[0].observation[:, 0]
    tasks = data.tell(np.zeros((3, 0)), np.arange(3))
    return {tuple(row[:-2].tolist()) for row in rows}, {tuple(task.tolist()) for task in tasks}


def test_the_seed_of_the_data_draws_episodes_and_tasks(root):
    """There are 792 ways to draw five of twelve episodes, so ten draws are not all the same."""
    seeds = [drawn(root, seed) for seed in range(10)]
    assert all(len(episodes) == 5 and len(tasks) == 3 for episodes, tasks in seeds)
    assert len({frozenset(episodes) for episodes, _ in seeds}) > 1
    assert not set.intersection(*(tasks for _, tasks in seeds))
    assert drawn(root, 3) == seeds[3]


def test_agents_that_are_told_observe_the_parameters_of_the_training_tasks(root):
    config = DataConfig(root=str(root), tasks=2)
    hidden, told = (training_data(TASK, config, told) for told in (False, True))
    first = np.zeros(1, int)
    plain, shown = (data.load(first + 1, first)[0].observation[0] for data in (hidden, told))
    assert (hidden.observation_size, told.observation_size) == (len(plain[0]), len(plain[0]) + 2)
    np.testing.assert_array_equal(shown[:, :-2], plain)
    tasks = training_tasks(TASK, config)
    expected = np.tile(parameters(tasks)[1].astype(np.float32), (len(plain), 1))
    np.testing.assert_array_equal(shown[:, -2:], expected)
