"""Makes small buffers of random states, with the observations that a walker has in them."""

import numpy as np

from datasets import Episode, write_episode
from envs.readings import observations_of
from tests.seeds import rng


def make_episode(length=20, seed=0, *, physics=True, columns=1):
    """Makes a walker's episode of random states and actions."""
    data = rng(seed)
    rows = length + 1
    action = data.uniform(-1, 1, (rows, 6)).astype(np.float32)
    reward = data.random((rows, columns)).astype(np.float32)
    action[0] = reward[0] = 0
    states = data.standard_normal((rows, 18))
    return Episode(
        observation=observations_of("walker", states).astype(np.float32),
        action=action,
        reward=reward,
        discount=np.ones((rows, 1), np.float32),
        physics=states if physics else None,
    )


def make_buffer(folder, count, length=20):
    """Writes episodes with seeds 0 to count - 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        write_episode(folder, index, make_episode(length, index))
    return folder
