"""The batched physics takes dm_control's own path."""

import numpy as np
import pytest
from oracle import Oracle

import envs
from tests.seeds import SEED, rng
from tests.tolerances import assert_within, rounding, unit

DOMAINS = ("cartpole", "cheetah", "walker", "quadruped", "hopper", "jaco", "point_mass_maze")
FLOAT64 = rounding(100, np.float64)
"""Observations and rewards follow from the state, which is equal, by some 100 roundings."""


def tasks_of(domain):
    """Returns the names of a domain's single tasks."""
    return [
        name
        for name in envs.tasks()
        if name not in envs.families() and envs.task(name).domain == domain
    ]


@pytest.mark.parametrize("domain", DOMAINS)
def test_random_episode(domain):
    """Observations and rewards of whole episodes of random actions are equal.

    Every task is in one vector, and the last one is also simulated alone.
    """
    names, first = tasks_of(domain), 3 + 100 * SEED
    vector, single = (
        envs.make_vec(names, seed=first),
        envs.make(names[-1], seed=first + len(names) - 1),
    )
    oracles = [Oracle(name, seed=first + index) for index, name in enumerate(names)]
    expected, rewards = [[oracle.reset() for oracle in oracles]], []
    observation, info = vector.reset()
    np.testing.assert_array_equal(
        info["physics"], [oracle.physics.get_state() for oracle in oracles]
    )
    observed, alone, paid, alone_paid, endings = [observation], [single.reset()[0]], [], [], []
    data = rng(0)
    for _ in range(envs.spec(names[0]).length):
        action = data.uniform(-1, 1, vector.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = vector.step(action)
        one = single.step(action[-1])
        right = [
            oracle.step(own.astype(np.float64)) for oracle, own in zip(oracles, action, strict=True)
        ]
        expected.append([each[0] for each in right])
        rewards.append([each[1] for each in right])
        observed.append(observation)
        paid.append(reward)
        alone.append(one[0])
        alone_paid.append(one[1])
        endings.append(truncated.any() or terminated.any())
    size = np.abs(expected)
    assert_within(
        observed, expected, unit() * size + FLOAT64 * max(1, size.max())
    )  # kept as float32
    assert_within(paid, rewards, FLOAT64)
    np.testing.assert_array_equal(alone, np.array(observed)[:, -1])
    np.testing.assert_array_equal(alone_paid, np.array(paid)[:, -1])
    states = [oracle.physics.get_state() for oracle in oracles]
    np.testing.assert_array_equal(
        info["physics"], states
    )  # the same simulator was given the same controls
    assert truncated.all()
    assert sum(endings) == 1


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("walker_walk", 18.154),
        ("quadruped_walk", 493.665),
        ("cheetah_run", 0.131),
        ("hopper_hop", 0.064),
    ],
)
def test_golden_returns(name, golden):
    """Seed 0, control 0, 1000 steps: the returns of dm_control and of mujoco 3.17.

    The bodies come to rest, so that errors fade: controls that are off by 1e-9 at every step move a
    return by 3e-5 at most, and in proportion. A processor that rounds otherwise, by 1e-16, changes
    none of the digits below.
    """
    env = envs.make(name, seed=0)
    env.reset()
    low, high = Oracle(name, seed=0).limits
    action = -(high + low) / (high - low)  # the action in [-1, 1] that means control 0
    oracle = Oracle(name, seed=0)
    oracle.reset()
    earned, right = (sum(step(action)[1] for _ in range(1000)) for step in (env.step, oracle.step))
    assert earned == pytest.approx(right, rel=1000 * FLOAT64)
    assert earned == pytest.approx(golden, abs=5e-4)
