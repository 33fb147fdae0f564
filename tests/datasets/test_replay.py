"""A buffer's actions lead through its stored states again."""

import numpy as np
import pytest

import datasets
import envs
from datasets.collection import start_seed
from datasets.collectors import collectors
from envs import registry
from tests.envs.oracle import Oracle

TASKS = {
    "cartpole": "cartpole_swingup",
    "cheetah": "cheetah_run",
    "walker": "walker_any",
    "quadruped": "quadruped_run",
    "hopper": "hopper_stand",
    "jaco": "jaco_reach_top_left",
    "point_mass_maze": "point_mass_maze_any",
    "point_mass": "point_mass_goal",
}
SEED = 3


def collected(folder, task, collector, monkeypatch, *, action_repeat=1, length=40):
    """Collects two short episodes, and returns their arrays."""
    domain = envs.task(task).domain
    spec = envs.spec(task)
    monkeypatch.setitem(registry._SPECS, domain, spec._replace(length=min(length, spec.length)))
    monkeypatch.setattr(collectors(task)[collector], "batch", 2)
    how = {"episodes": 2, "seed": SEED, "collector": collector, "action_repeat": action_repeat}
    datasets.collect(task, folder, progress=False, **how)
    episodes = [datasets.read_episode(path) for path in sorted(folder.glob("*.npz"))]
    keys = ("observation", "action", "reward", "physics")
    return [np.stack([getattr(episode, key) for episode in episodes]) for key in keys]


CASES = [(domain, collector) for domain, task in TASKS.items() for collector in collectors(task)]


@pytest.mark.parametrize(("domain", "collector"), CASES)
def test_a_replay_takes_the_stored_path(domain, collector, tmp_path, monkeypatch):
    """It starts from the seed of the episode's number and is equal to the last bit."""
    task = TASKS[domain]
    observation, action, reward, physics = collected(tmp_path, task, collector, monkeypatch)
    seeds = [start_seed(SEED, index) for index in range(2)]
    # An environment draws its task by its seed; some collectors pursue the first one's in all.
    drawn = envs.make_vec(task, 2)
    drawn.reset(seed=seeds)
    one_task = collectors(task)[collector].one_task
    environments = envs.make_vec(drawn.tasks[:1] * 2 if one_task else drawn.tasks)
    seen, info = environments.reset(seed=seeds)
    for row in range(action.shape[1]):
        if row:
            seen, paid, _, _, info = environments.step(action[:, row])
            earned = np.zeros(2) if task == "point_mass_goal" else paid
            np.testing.assert_array_equal(reward[:, row, 0], earned.astype(np.float32))
        np.testing.assert_array_equal(physics[:, row], info["physics"])
        np.testing.assert_array_equal(observation[:, row], seen)
    assert np.abs(action).max() <= 1
    assert action[:, 1:].any()


def test_a_replay_of_held_actions_takes_the_stored_path(tmp_path, monkeypatch):
    """The environment holds each action itself."""
    task = "walker_run"
    how = {"action_repeat": 5}
    observation, action, reward, physics = collected(tmp_path, task, "noise", monkeypatch, **how)
    environments = envs.make_vec(task, 2, **how)
    environments.reset(seed=[start_seed(SEED, index) for index in range(2)])
    for row in range(1, action.shape[1], 5):
        seen, paid, _, _, info = environments.step(action[:, row])
        np.testing.assert_array_equal(physics[:, row + 4], info["physics"])
        np.testing.assert_array_equal(observation[:, row + 4], seen)
        # Five rewards of at most 1, each rounded to float32 by at most half an eps.
        held = reward[:, row : row + 5, 0].sum(axis=1, dtype=np.float64)
        np.testing.assert_allclose(held, paid, rtol=0, atol=5 * np.finfo(np.float32).eps / 2)


def test_dm_control_takes_the_stored_path_from_the_stored_start(tmp_path, monkeypatch):
    """dm_control's own environment gets the first row of physics alone.

    When actions were rounded after they had been executed, the last states differed by 17.
    """
    task = "walker_run"
    observation, action, _, physics = collected(tmp_path, task, "random", monkeypatch, length=500)
    oracle = Oracle(task, seed=0)
    oracle.reset()
    with oracle.physics.reset_context():
        oracle.physics.set_state(physics[0, 0])
    for row in range(1, 501):
        seen = oracle.step(action[0, row].astype(np.float64))[0]
    # Both do the same arithmetic. Another order of a sum moves a state by 1e-16, and steps let that
    # grow; in these 500 a difference of 1e-8 (a float32's rounding) grows to 17, so 1e-16 to 1e-7.
    np.testing.assert_allclose(oracle.physics.get_state(), physics[0, -1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(seen, observation[0, -1], rtol=np.finfo(np.float32).eps, atol=1e-6)
