"""Stored attempts are those of the first tasks, each in its place."""

import numpy as np
import pytest

import envs
from agentic_transformer.agents.base import Attempt, Trajectory
from agentic_transformer.evaluation.stored_rollouts import PICTURED_TASKS, save_rollouts

STEPS, ATTEMPTS, TASKS = 3, 2, PICTURED_TASKS + 2


def made(number):
    """An attempt in which every number is another one."""
    physics = 1000 * number + np.arange(TASKS * (STEPS + 1) * 4.0).reshape(TASKS, STEPS + 1, 4)
    reward = physics[:, 1:, 0] + 0.5
    seen = np.zeros((TASKS, STEPS, 1))
    return Attempt(number, Trajectory(seen, seen, reward, np.zeros(TASKS)), physics, encoded=0)


@pytest.mark.parametrize("family", ["point_mass_goal", "point_mass_maze_any", "walker_any"])
def test_attempts_are_stored_task_by_task(family, tmp_path):
    tasks = envs.draw_tasks(family, TASKS, np.random.default_rng(0))
    attempts = [made(number) for number in range(1, ATTEMPTS + 1)]
    save_rollouts(tmp_path / "rollouts.npz", tasks, attempts)
    with np.load(tmp_path / "rollouts.npz") as stored:
        arrays = dict(stored)
    assert arrays["task_id"].tolist() == [task.id for task in tasks[:PICTURED_TASKS]]
    assert arrays["physics"].shape == (PICTURED_TASKS, ATTEMPTS, STEPS + 1, 4)
    for row, column in np.ndindex(PICTURED_TASKS, ATTEMPTS):
        attempt = attempts[column]
        np.testing.assert_array_equal(arrays["physics"][row, column], attempt.physics[row])
        np.testing.assert_array_equal(arrays["reward"][row, column], attempt.rewards[row])
    views = [envs.top_down_view(task) for task in tasks[:PICTURED_TASKS]]
    if views[0] is None:
        assert arrays.keys() == {"physics", "reward", "task_id"}
        return
    np.testing.assert_array_equal(arrays["goal"], [view.goal for view in views])
    assert len(np.unique(arrays["goal"], axis=0)) > 1
    assert (arrays["radius"], arrays["tenth"]) == (views[0].radius, views[0].tenth)
    np.testing.assert_array_equal(arrays["walls"], np.reshape(views[0].walls, (-1, 2)))
