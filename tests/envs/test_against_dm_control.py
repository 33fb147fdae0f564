"""The batched physics walks dm_control's own path."""

import numpy as np
import pytest
from oracle import Oracle

import envs

SINGLE = [name for name in envs.tasks() if name not in envs.families()]
# Observations are float32 and of size up to 100: agreement to their last digit. Rewards are of size 1.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", SINGLE)
def test_random_episode(name):
    """A whole episode of random actions, the second of three environments: observations and rewards at every step."""
    length = envs.spec(name).length
    vector = envs.make_vec(name, num_envs=2, seed=3)
    single = envs.make(name, seed=4)
    oracle = Oracle(name, seed=4)
    rng = np.random.default_rng(0)
    expected = oracle.reset()
    observation, info = vector.reset()
    np.testing.assert_allclose(observation[1], expected, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_array_equal(single.reset()[0], observation[1])
    np.testing.assert_array_equal(info["physics"][1], oracle.physics.get_state())
    for step in range(length):
        action = rng.uniform(-1, 1, vector.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = vector.step(action)
        alone = single.step(action[1])
        expected, expected_reward = oracle.step(action[1].astype(np.float64))
        np.testing.assert_allclose(observation[1], expected, atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_array_equal(alone[0], observation[1])
        assert abs(reward[1] - expected_reward) <= TOLERANCE
        assert alone[1] == reward[1]
        assert not terminated.any()
        assert truncated.all() == (step == length - 1)
    np.testing.assert_allclose(info["physics"][1], oracle.physics.get_state(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "golden"),
    [("walker_walk", 18.154), ("quadruped_walk", 493.665), ("cheetah_run", 0.131), ("hopper_hop", 0.064)],
)
def test_golden_returns(name, golden):
    """Seed 0, controls 0, 1000 steps, mujoco 3.17."""
    env = envs.make(name, seed=0)
    env.reset()
    low, high = Oracle(name, seed=0).limits
    action = -(high + low) / (high - low)  # the action in [-1, 1] that means control 0
    assert sum(env.step(action)[1] for _ in range(1000)) == pytest.approx(golden, abs=5e-4)
