"""Rewards computed from stored states are dm_control's."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oracle import STOCK, Oracle

import datasets
import envs
from tests.seeds import SEED, rng
from tests.tolerances import rounding, unit

SINGLE = [name for name in envs.tasks() if name not in envs.families()]
TOLERANCE = unit() + rounding(100, np.float64)
"""Rewards are at most 1, kept as float32, and follow from the state by some 100 roundings."""


def collected(name, steps):
    """Returns physics and actions of random play, (steps, ...)."""
    environments = envs.make_vec(name, 1, seed=SEED + 1)
    environments.reset()
    actions = rng(0).uniform(-1, 1, (steps, *environments.action_space.shape))
    return np.concatenate([environments.step(action)[4]["physics"] for action in actions]), actions[
        :, 0
    ]


@pytest.mark.parametrize("name", SINGLE)
def test_agrees_with_get_reward(name):
    """On states of random play and on unreachable ones, with controls at 0 and with actions."""
    physics, action = collected(name, 60)
    noise = rng(1).standard_normal(physics.shape)
    physics, action = np.concatenate([physics, physics + noise]), np.concatenate([action, action])
    oracle = Oracle(name, seed=SEED)
    expected = [oracle.set_state(state) for state in physics]
    np.testing.assert_allclose(datasets.relabel(physics, name), expected, rtol=0, atol=TOLERANCE)
    if "jaco" not in name:  # its controls are not the actions, but no reward looks at them
        expected = [
            oracle.set_state(state, control) for state, control in zip(physics, action, strict=True)
        ]
    np.testing.assert_allclose(
        datasets.relabel(physics, name, "exact", action), expected, rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("name", STOCK)
def test_exact_reproduces_the_environments_rewards(name):
    """Rewards of dm_control's own environment follow from its states and actions."""
    oracle = Oracle(name, seed=SEED + 2)
    oracle.reset()
    low, high = oracle.limits
    states, actions, paid = [], rng(0).uniform(-1, 1, (100, len(low))), []
    for action in actions:
        paid.append(oracle.step(action)[1])
        states.append(oracle.physics.get_state())
    np.testing.assert_allclose(
        datasets.relabel(np.array(states), name, "exact", actions), paid, rtol=0, atol=TOLERANCE
    )


def test_threads_do_not_disturb_each_other():
    """They take turns all the time here."""
    states = np.split(np.repeat(collected("walker_walk", 400)[0], 20, axis=0), 4)
    interval = sys.getswitchinterval()
    alone = [datasets.relabel(some, "walker_walk") for some in states]
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(datasets.relabel, states, ["walker_walk"] * 4))
    finally:
        sys.setswitchinterval(interval)
    np.testing.assert_array_equal(together, alone)


def test_control_costs_are_left_out_by_default():
    """`exorl`, as the published benchmark, pays up to a quarter more where control costs."""
    physics, _ = collected("hopper_stand", 200)
    ones = np.ones((200, 4))
    free, exact = (
        datasets.relabel(physics, "hopper_stand", mode, ones) for mode in ("exorl", "exact")
    )
    assert exact.sum(dtype=np.float64) == pytest.approx(
        free.sum(dtype=np.float64) / 1.25, rel=2 * unit()
    )  # of float32
