"""Attempts of an evaluation: the actions that a context remembers are those that were executed."""

import jax
import numpy as np
import pytest

import envs
from agentic_transformer.agents.attempts import run_trajectory
from agentic_transformer.config import EvalConfig, ModelConfig
from tests.small_agents import TASK, describe, labelled, untrained_agent


@pytest.mark.slow
def test_a_replay_takes_the_path_of_the_attempt(tmp_path):
    data = labelled(tmp_path, episodes=8)
    model = ModelConfig(width=16, layers=1, dtype="bfloat16")
    policy = untrained_agent(describe(data, model=model))
    tasks = [envs.task(TASK, goal=(0.1, 0.1))] * 2
    environments, twins = envs.make_vec(tasks), envs.make_vec(tasks)
    context, asked, key = policy.new_context(2, 1), np.full(2, 5.0), jax.random.key(0)
    made = run_trajectory(policy, environments, context, asked, 11, key, EvalConfig())
    trajectory, physics, _ = made
    stored = trajectory.action.astype(np.float32)
    _, info = twins.reset(seed=11)
    for step in range(stored.shape[1]):
        np.testing.assert_array_equal(physics[:, step], info["physics"])
        _, reward, _, _, info = twins.step(stored[:, step])
        np.testing.assert_array_equal(trajectory.reward[:, step], reward)
    np.testing.assert_array_equal(physics[:, -1], info["physics"])
