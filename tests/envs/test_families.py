"""Families: rewards of any member, draws of tasks, and ids."""

import numpy as np
import pytest
from dm_control.utils.rewards import tolerance
from oracle import FAMILIES, Oracle

import datasets
import envs
from datasets.mppi_collector import MPPIConfig
from datasets.relabelling import measure_many
from envs import maze
from envs.episode_start import episode_starter
from envs.family_table import FAMILIES as TABLE
from envs.headless import mujoco
from envs.mppi import MPPI
from envs.registry import parameters
from envs.rewards import family_reward, stack_params
from envs.task_draws import collection_params, name_params
from tests.seeds import SEED, rng
from tests.tolerances import rounding, unit

NAMES = sorted(FAMILIES)
TOLERANCE = unit() + rounding(100, np.float64)
"""Rewards are at most 1, kept as float32, and follow from the state by some 100 roundings."""
MEMBERS, STEPS = 6, 12


def members(name, count, seed):
    """Draws members between and beyond the training tasks."""
    data = rng(seed)
    return [
        *envs.draw_tasks(name, count // 2, data),
        *envs.held_out_tasks(name, count - count // 2, data, (), beyond=True),
    ]


def test_every_family_has_an_oracle():
    assert {name for name, row in TABLE.items() if row.parameters} == set(FAMILIES)


@pytest.mark.parametrize("name", NAMES)
def test_relabelling_is_dm_controls_reward(name):
    """Of any member, on states of random play and on unreachable ones, in both modes."""
    tasks = members(name, MEMBERS, 0)
    environments = envs.make_vec(tasks, seed=SEED + 1)
    environments.reset()
    actions = rng(1).uniform(-1, 1, (STEPS, *environments.action_space.shape))
    played = np.stack([environments.step(action)[4]["physics"] for action in actions])
    noise = rng(2).standard_normal(played.shape)
    physics = np.concatenate([played, played + noise])  # (states, members, physics size)
    if "point" in name:  # a point mass is paid near its goal alone
        goals = np.array([task.params["goal"] for task in tasks])
        physics[STEPS:, :, :2] = goals + 0.02 * noise[..., :2]
    if "jaco" in name:  # so is a hand: of many poses, those with the hand nearest to the goal
        poses = played[-1] + rng(3).standard_normal((500, *played.shape[1:]))
        for index, task in enumerate(tasks):
            hand = measure_many(poses[:, index], [envs.task(name)])[0]
            nearest = np.linalg.norm(hand[:, :2] - task.params["goal"], axis=1).argsort()[:STEPS]
            physics[STEPS:, index] = poses[nearest, index]
    actions, paid = np.concatenate([actions, actions]), []
    for index, task in enumerate(tasks):
        oracle, states, control = Oracle(task, SEED), physics[:, index], actions[:, index]
        expected = [oracle.set_state(state) for state in states]
        paid += expected
        found = datasets.relabel(states, task)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
        if "jaco" not in name:  # its controls are not the actions, but no reward looks at them
            expected = [oracle.set_state(*each) for each in zip(states, control, strict=True)]
        found = datasets.relabel(states, task, "exact", control)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert max(paid) > 1e-3  # something was compared


@pytest.mark.parametrize("name", NAMES)
def test_exact_relabelling_is_what_the_environment_pays(name):
    """Members of one vector are each paid for their own parameters, close to what they do."""
    tasks = members(name, MEMBERS, 3)
    environments = envs.make_vec(tasks, seed=SEED + 2)
    environments.reset()
    actions = rng(4).uniform(-1, 1, (STEPS, *environments.action_space.shape))
    steps = [environments.step(action) for action in actions]
    for index, task in enumerate(tasks):
        states = np.array([step[4]["physics"][index] for step in steps])
        found = datasets.relabel(states, task, "exact", actions[:, index])
        paid = [step[1][index] for step in steps]
        np.testing.assert_allclose(found, paid, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("family", "corner", "offset"),
    [("point_mass_maze_goal", "point_mass_maze_reach", 0.15), ("jaco_goal", "jaco_reach", 0.09)],
)
def test_a_goal_in_a_corner_is_the_corners_task(family, corner, offset):
    """The goals of the single tasks are members of the families."""
    rows, size = 200, envs.spec(family)
    physics = rng(5).uniform(-0.29, 0.29, (rows, size.physics))
    action = rng(6).uniform(-1, 1, (rows, size.action))
    for name, x, y in (("top_left", -1, 1), ("bottom_right", 1, -1)):
        goal = envs.task(family, goal=(x * offset, y * offset))
        for mode in ("exorl", "exact"):
            np.testing.assert_array_equal(
                datasets.relabel(physics, goal, mode, action),
                datasets.relabel(physics, f"{corner}_{name}", mode, action),
            )


@pytest.mark.parametrize("name", NAMES)
def test_ids_round_trip(name):
    """An id makes an equal task with the same id, anywhere in the allowed range."""
    for task in members(name, 60, 7):
        assert envs.task(task.id) == task
        assert envs.task(str(task)).id == task.id
        assert hash(envs.task(task.id)) == hash(task)


@pytest.mark.parametrize("value", [-0.0, 1e-9, -9.87654321, 10, 0.0123456789, 1e-6])
def test_rounded_values_round_trip(value):
    task = envs.task("cheetah_speed", speed=value)
    assert envs.task(task.id) == task
    assert envs.task(task.id).id == task.id
    assert abs(task.params["speed"] - value) <= 5e-6  # half of the last of six digits of 10


@pytest.mark.parametrize("name", NAMES)
def test_held_out_tasks_repeat_no_training_task(name):
    """The same source of draws would give the training tasks again."""
    training = envs.training_tasks(name, 40, rng(8))
    assert envs.draw_tasks(name, 40, rng(8)) == training
    held_out = envs.held_out_tasks(name, 80, rng(8), training)
    assert len(set(held_out)) == 80
    assert not set(held_out) & set(training)
    assert envs.held_out_tasks(name, 80, rng(8), [one.id for one in training]) == held_out
    beyond = envs.held_out_tasks(name, 80, rng(8), training, beyond=True)
    assert not set(beyond) & set(training)
    assert not set(beyond) & set(held_out)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("cheetah_speed", -2, 3), ("walker_speed", -1, 2.5), ("quadruped_speed", -1, 1.5)],
)
def test_speeds_lie_between_and_beyond(name, low, high):
    """Training speeds fill their range; those beyond lie on both sides of it."""

    def speeds(tasks):
        return np.array([task.params["speed"] for task in tasks])

    training = speeds(envs.training_tasks(name, 200, rng(9)))
    assert ((low <= training) & (training <= high)).all()
    beyond = speeds(envs.held_out_tasks(name, 60, rng(9), (), beyond=True))
    assert ((beyond < low) | (beyond > high)).all()
    assert (beyond < low).any()
    assert (beyond > high).any()
    collected = speeds(envs.collection_tasks(name, 200, rng(9)))
    assert collected.min() < low < high < collected.max()


def test_goals_lie_between_and_beyond():
    """A disc's worth around each training goal of the point mass is free of goals beyond."""

    def goals(name, beyond=None):
        drawn = (
            envs.training_tasks(name, 200, rng(11))
            if beyond is None
            else envs.held_out_tasks(name, 200, rng(12), (), beyond)
        )
        return np.array([task.params["goal"] for task in drawn])

    for place in (goals("point_mass_goal"), goals("point_mass_goal", beyond=False)):
        np.testing.assert_allclose(np.hypot(*place.T), 0.15, atol=1e-6)  # rounded to micrometres
        assert len(np.unique(np.arctan2(*place.T) // (np.pi / 4))) == 8  # in every direction
    distance = np.hypot(*goals("point_mass_goal", beyond=True).T)
    assert ((distance < 0.15 - 0.045) | (distance > 0.15 + 0.045)).all()
    assert (distance < 0.15).any() and (distance > 0.15).any()
    inside = np.abs(goals("jaco_goal")).max(axis=1)
    outside = np.abs(goals("jaco_goal", beyond=True)).max(axis=1)
    assert 0.1 < inside.max() <= 0.11 < outside.min() and outside.max() <= 0.15


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_parameters_are_drawn_as_tasks_to_collect_for_are(name):
    tasks = envs.collection_tasks(name, 40, rng(10))
    numbers = collection_params(envs.task(name), 40, rng(10))
    # Those of a task are rounded to six decimals, or to six digits where they are larger.
    rounded = parameters(tasks)
    np.testing.assert_allclose(numbers, rounded, rtol=5e-6, atol=5e-7)
    named, expected = name_params(envs.task(name), rounded), stack_params(tasks)
    assert named.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(named[key], values, strict=True)


def test_a_finite_family_holds_no_member_out():
    with pytest.raises(ValueError, match="no parameters, so no member is held out"):
        envs.held_out_tasks("walker_any", 2, rng(0), ())


def test_goals_in_the_maze_are_reachable():
    """Where a goal is allowed, the mass touches no wall; in the middle of a wall it does."""
    model = episode_starter("point_mass_maze", "goal").model
    data, drawn = mujoco.MjData(model), rng(10).uniform(-0.28, 0.28, (300, 2))
    for position, free in zip(drawn, maze.is_free(drawn), strict=True):
        data.qpos[:] = position
        mujoco.mj_forward(model, data)
        touches = bool((data.contact.dist < 0).any())
        assert not (free and touches)
        in_a_wall = (np.abs(position) < np.array(maze.WALLS)).all(axis=1).any()
        assert touches or not in_a_wall
        if free:
            assert envs.task("point_mass_maze_goal", goal=position)


def test_the_way_to_a_goal_leads_around_walls():
    """A straight line within a room; through one gap to the next; as long in both directions."""
    start, near, behind = np.array([[-0.2, 0.2]]), np.array([-0.1, 0.1]), np.array([0.2, 0.2])
    np.testing.assert_allclose(maze.distance(start, near), np.sqrt(0.02), rtol=1e-12)
    through = 2 * np.hypot(0.2, 0.04)  # by the gap at (0, 0.24)
    np.testing.assert_allclose(maze.distance(start, behind), through, rtol=1e-12)
    there = maze.distance(np.tile(start, (2, 1)), np.stack([near, behind]))
    np.testing.assert_allclose(there, [np.sqrt(0.02), through], rtol=1e-12)
    across = np.array([[0.2, -0.2]])
    np.testing.assert_allclose(maze.distance(start, across[0]), maze.distance(across, start[0]))


def test_plans_follow_the_parameters():
    """Of two cheetahs with one state, the one asked to run forward gets ahead."""
    tasks = [envs.task("cheetah_speed", speed=speed) for speed in (-2, 2)]
    environments = envs.make_vec(tasks, seed=[SEED, SEED])
    _, info = environments.reset()
    planner = MPPI(tasks, MPPIConfig(samples=16, knots=6, hold=6, timestep_scale=2), rng(11))
    for _ in range(10):
        action = planner.plan(info["physics"])
        for _ in range(6):
            info = environments.step(action)[4]
    backward, forward = info["physics"][:, 0]
    assert forward > backward + 0.2


@pytest.mark.parametrize("name", NAMES)
def test_what_is_measured_is_small(name):
    """A family keeps a few numbers of each row, whatever the number of its members."""
    task = envs.task(name)
    physics = np.zeros((3, envs.spec(task).physics))
    (kept,) = datasets.relabelling.measure_many(physics, [task])
    assert kept.shape[0] == 3
    assert kept.shape[1] <= 3


def test_a_learner_climbs_toward_a_speed():
    """stand (0.2 + 0.4 pay(margin 0.5) + 0.4 pay(margin 2)), on dm_control's physics."""
    oracle, states = (
        Oracle(envs.task("walker_speed", speed=0), SEED),
        rng(11).standard_normal((30, 18)),
    )
    states[:, 1], states[:, 2] = states[:, 1] * 0.2, states[:, 2] * 0.5  # not far from upright
    states[:, 9:] *= 2
    (measured,) = measure_many(states, [envs.task("walker_speed")])
    for speed in (-0.8, 0.4, 2.3):
        found = family_reward(envs.task("walker_speed")).learning(measured, speed=np.array(speed))
        for state, reward in zip(states, found, strict=True):
            oracle.set_state(state)
            physics = oracle.physics
            standing = tolerance(physics.torso_height(), (1.2, float("inf")), 0.6)
            stand = (3 * standing + (1 + physics.torso_upright()) / 2) / 4
            near, far = (
                tolerance(
                    physics.horizontal_velocity(), (speed - 0.25, speed + 0.25), margin, "linear", 0
                )
                for margin in (0.5, 2.0)
            )
            expected = stand * (0.2 + 0.4 * near + 0.4 * far)
            assert abs(reward - expected) <= rounding(100, np.float64)
