"""What is drawn from above lies where physics and rewards have it."""

import numpy as np
import pytest
from oracle import Oracle

import datasets
import envs
from tests.seeds import rng

PLANAR = [*envs.draw_tasks("point_mass_goal", 3, rng(0)), *envs.members("point_mass_maze_any")]


@pytest.mark.parametrize("task", PLANAR, ids=lambda task: task.id)
def test_goal_pays_in_full_up_to_its_radius(task):
    """At rest within the radius the reward is 1, and beyond it less."""
    view = envs.top_down_view(task)
    for within in (0, 0.99, 1.05):
        angles = np.linspace(0, 2 * np.pi, 8)
        around = np.array(view.goal) + within * view.radius * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1
        )
        reward = datasets.relabel(np.concatenate([around, np.zeros_like(around)], axis=1), task)
        assert (reward == 1).all() if within < 1 else (reward < 1).all()


@pytest.mark.parametrize("task", PLANAR, ids=lambda task: task.id)
def test_a_tenth_of_the_reward_is_left_where_it_is_said(task):
    view = envs.top_down_view(task)
    state = np.array([[view.goal[0] + view.tenth, view.goal[1], 0, 0]])
    # dm_control's tolerance is 0.1 ** x**2, x the distance in margins: a slope of 1.31 at most.
    atol = 1.31 * 1e-6 / view.radius + np.finfo(np.float32).eps
    np.testing.assert_allclose(datasets.relabel(state, task), 0.1, rtol=0, atol=atol)


def test_walls_are_those_of_the_model():
    """They are the boxes of dm_control's model: (half width, half height) about the origin."""
    task = "point_mass_maze_reach_top_left"
    model = Oracle(task, seed=0).physics.named.model
    names = [name for name in model.geom_size.axes[0].names if name.startswith("maze")]
    assert (np.array([model.geom_pos[name][:2] for name in names]) == 0).all()
    np.testing.assert_array_equal(
        envs.top_down_view(envs.task("point_mass_maze_reach_top_left")).walls,
        [model.geom_size[name][:2] for name in names],
    )


def test_bodies_are_not_seen_from_above():
    """A walker's state has no position in a plane."""
    assert envs.top_down_view(envs.task("walker_walk")) is None
