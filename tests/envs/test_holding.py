"""Held actions against single control steps."""

import numpy as np
import pytest

import envs


def test_an_agent_step_is_its_control_steps():
    held = envs.HeldActions(envs.make_vec("cartpole_swingup", 3), repeat=4, steps=5)
    single = envs.make_vec("cartpole_swingup", 3)
    first, _ = held.reset(seed=1)
    assert (first == single.reset(seed=1)[0]).all()
    rng = np.random.default_rng(0)
    for number in range(1, 6):
        action = rng.uniform(-1, 1, (3, 1))
        observation, reward, terminated, truncated, info = held.step(action)
        controls = [single.step(action) for _ in range(4)]
        assert (observation == controls[-1][0]).all()
        assert (info["physics"] == controls[-1][4]["physics"]).all()
        np.testing.assert_allclose(reward, sum(control[1] for control in controls), rtol=1e-12)
        assert not terminated.any()
        assert (truncated == (number == 5)).all()


def test_an_episode_must_hold_the_steps():
    with pytest.raises(ValueError, match="300 agent steps of 4 control steps do not fit into an episode of 1000"):
        envs.HeldActions(envs.make_vec("cartpole_swingup", 1), repeat=4, steps=300)
