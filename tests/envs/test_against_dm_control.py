"""The batched physics walks dm_control's own path."""

import numpy as np
import pytest
from oracle import Oracle

import envs

DOMAINS = ("cartpole", "cheetah", "walker", "quadruped", "hopper", "jaco", "point_mass_maze")
# Observations are float32 and of size up to 100: agreement to their last digit. Rewards are of size 1.
TOLERANCE = 1e-6


def tasks_of(domain):
    """Names of a domain's single tasks."""
    return [name for name in envs.tasks() if name not in envs.families() and envs.task(name).domain == domain]


@pytest.mark.parametrize("domain", DOMAINS)
def test_random_episode(domain):
    """Whole episodes of random actions, every task in one vector and the last also alone: all observations and rewards."""
    names = tasks_of(domain)
    vector, single = envs.make_vec(names, seed=3), envs.make(names[-1], seed=3 + len(names) - 1)
    oracles = [Oracle(name, seed=3 + index) for index, name in enumerate(names)]
    expected, rewards = [[oracle.reset() for oracle in oracles]], []
    observation, info = vector.reset()
    np.testing.assert_array_equal(info["physics"], [oracle.physics.get_state() for oracle in oracles])
    observed, alone, paid, alone_paid, endings = [observation], [single.reset()[0]], [], [], []
    rng = np.random.default_rng(0)
    for _ in range(envs.spec(names[0]).length):
        action = rng.uniform(-1, 1, vector.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = vector.step(action)
        one = single.step(action[-1])
        right = [oracle.step(own.astype(np.float64)) for oracle, own in zip(oracles, action, strict=True)]
        expected.append([each[0] for each in right])
        rewards.append([each[1] for each in right])
        observed.append(observation)
        paid.append(reward)
        alone.append(one[0])
        alone_paid.append(one[1])
        endings.append(truncated.any() or terminated.any())
    np.testing.assert_allclose(observed, expected, atol=TOLERANCE, rtol=TOLERANCE)
    np.testing.assert_allclose(paid, rewards, atol=TOLERANCE, rtol=0)
    np.testing.assert_array_equal(alone, np.array(observed)[:, -1])
    np.testing.assert_array_equal(alone_paid, np.array(paid)[:, -1])
    states = [oracle.physics.get_state() for oracle in oracles]
    np.testing.assert_allclose(info["physics"], states, atol=TOLERANCE, rtol=TOLERANCE)
    assert truncated.all()
    assert sum(endings) == 1


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
