"""The quickstart's data are collected, read back, cached and relabelled."""

import numpy as np
import pytest

import datasets
import envs
from tests.seeds import SEED, rng
from tests.tolerances import TINY, unit


@pytest.fixture(scope="module")
def buffer(tmp_path_factory):
    """200 episodes of the PD collector."""
    folder = datasets.buffer_folder(tmp_path_factory.mktemp("data"), "point_mass_goal", "pd")
    datasets.collect(
        "point_mass_goal", folder, episodes=200, seed=SEED + 1, collector="pd", progress=False
    )
    return folder


def test_episode_format(buffer):
    """Names, keys, dtypes and the reset row are ExoRL's."""
    assert buffer.parts[-3:] == ("point_mass", "pd", "buffer")
    files = sorted(buffer.glob("*.npz"))
    assert files[0].name == "episode_000000_12.npz"
    assert len(files) == 200
    with np.load(files[3]) as arrays:
        assert {key: (array.shape, array.dtype.name) for key, array in arrays.items()} == {
            "observation": ((13, 4), "float32"),
            "action": ((13, 2), "float32"),
            "reward": ((13, 1), "float32"),
            "discount": ((13, 1), "float32"),
            "physics": ((13, 4), "float64"),
        }
        assert not arrays["action"][0].any()
        assert not arrays["reward"].any()
        assert (arrays["discount"] == 1).all()


def test_collector_covers_the_ring(buffer):
    """For every goal some trajectories reach it and most do not."""
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    goals = [
        envs.task("point_mass_goal", goal=(0.15 * np.cos(a), 0.15 * np.sin(a)))
        for a in np.arange(8) * np.pi / 4
    ]
    store.relabel(goals, progress=False)
    returns = np.stack([store.returns(goal) for goal in goals])
    assert (returns.max(axis=1) > 8).all()
    assert (np.median(returns, axis=1) < 1).all()


def test_rewards_are_the_environments(buffer):
    """Relabelled rewards equal what the environment pays for the episode's actions."""
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    goal = envs.task("point_mass_goal", goal=(0.1, 0.1))
    env = envs.make(goal)
    env.reset()
    paid, physics, actions = [], [], rng(0).uniform(-1, 1, (12, 2))
    for action in actions:
        _, reward, _, _, info = env.step(action)
        paid.append(reward)
        physics.append(info["physics"])
    # One at a time and all at once may round the last bit otherwise.
    np.testing.assert_allclose(
        datasets.relabel(np.array(physics), goal), paid, rtol=0, atol=2 * unit()
    )
    np.testing.assert_allclose(
        store.rewards(goal).sum(axis=1, dtype=np.float64),
        store.returns(goal),
        rtol=unit(),
        atol=TINY,
    )


def test_trajectories_are_aligned(buffer):
    """Action t was taken at observation t."""
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    episode = datasets.read_episode(buffer / "episode_000007_12.npz")
    chosen = store.load([7, 9])
    np.testing.assert_array_equal(chosen.observation[0], episode.observation[:-1])
    np.testing.assert_array_equal(chosen.action[0], episode.action[1:])
