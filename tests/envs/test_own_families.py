"""A hidden task of an environment of gymnasium: acted and relabelled rewards are one function's."""

import copy
import dataclasses
import pickle
import re

import gymnasium
import numpy as np
import pytest

import datasets
import envs
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.training_data import evaluation_data, training_data
from agentic_transformer.errors import UserError
from agentic_transformer.validation import check_environment
from envs.family_table import FAMILIES

LENGTH = 6
NAME = "gymnasium:tests/Room-v0"


class Room(gymnasium.Env):
    """Moves a point; its own reward is wrong on purpose."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.1, 0.1, 2).astype(np.float32)
        return self.place, {}

    def step(self, action):
        self.place = np.clip(self.place + action, -1, 1).astype(np.float32)
        return self.place, -99.0, False, False, {}


def reward(observation, goal, scale):
    return scale * (2 - np.abs(observation - goal).sum(axis=-1))


def register(**changed):
    settings = {
        "parameters": {
            "goal": envs.Parameter("metres", (-1, -1), (1, 1)),
            "scale": envs.Parameter("times", (0.5,), (2.0,)),
        },
        "training": lambda rng, count: rng.uniform([-1, -1, 0.5], [1, 1, 2], (count, 3)),
        "reward": reward,
    }
    envs.register_family(NAME, **settings | changed)


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("tests/Room-v0", entry_point=Room, max_episode_steps=LENGTH)
    register()
    yield
    del gymnasium.registry["tests/Room-v0"]
    FAMILIES.pop(NAME, None)


def expected(observation, task):
    params = {key: np.array(value) for key, value in task.params.items()}
    return reward(observation.astype(np.float64), **params)


def test_it_is_a_family_whose_ids_make_its_members():
    assert envs.task(NAME).hidden and envs.task(NAME).domain == NAME
    assert NAME not in envs.tasks()  # which lists ours alone
    envs.register()
    member = envs.task(NAME, goal=(0.25, -0.5), scale=1.5)
    assert member.id == f"{NAME}(goal=0.25,-0.5;scale=1.5)"
    assert envs.task(member.id) == member and not member.hidden
    with pytest.raises(ValueError, match="must be two numbers"):
        envs.task(NAME, goal=(0.25, 2), scale=1)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (-np.pi / 2, np.pi / 2, ["-1.5708", "1.5708"]),
        (-2 / 3, 1 / 3, ["-0.666667", "0.333333"]),
        (1.23456789e-7, 1.5e-5, ["1.23457e-07", "1.5e-05"]),
        (-123456.7, 7654321.0, ["-123457", "7.65432e+06"]),
    ],
)
def test_values_at_their_bounds_and_between_have_ids_that_make_them(low, high, shown):
    """Ids show six digits, which may lie beyond the bound itself."""
    values = np.linspace(low, high, 7)
    register(
        parameters={"angle": envs.Parameter("rad", (low,), (high,))},
        training=lambda rng, count: rng.choice(values, (count, 1)),
        reward=lambda observation, angle: observation[..., 0] * angle,
    )
    members = envs.training_tasks(NAME, 7, np.random.default_rng(0))
    for member in members:
        assert envs.task(member.id) == member and envs.task(member.id).id == member.id
    found = sorted(member.params["angle"] for member in members)
    np.testing.assert_allclose(found, values, rtol=5e-6)
    ids = [f"{NAME}(angle={text})" for text in shown]
    assert {member.id for member in members} >= set(ids)
    vector = envs.make_vec(NAME, 2)
    vector.reset(options={"tasks": [envs.task(each) for each in ids]})
    with pytest.raises(ValueError, match="nearest match: " + re.escape(str(found[-1]))):
        envs.task(NAME, angle=high + abs(high) * 1e-5)


@pytest.mark.parametrize(
    ("known", "used"),
    [(NAME, "gymnasium:a_module:tests/Room-v0"), ("gymnasium:a_module:tests/Room-v0", NAME)],
)
def test_a_family_that_is_registered_under_another_name_is_no_plain_task(known, used, monkeypatch):
    """Its task would not be hidden, and nothing would say so."""
    family = FAMILIES.pop(NAME)
    monkeypatch.setitem(FAMILIES, known, family)
    with pytest.raises(ValueError, match=f"{used}'.* registered as '{known}'; allowed: the same"):
        envs.task(used)
    with pytest.raises(UserError, match="registered as .*\n.*allowed: the same name"):
        check_environment(used)
    assert envs.task(known).hidden


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 1.0), ((-1,), (1, 1)), ((), ()), ((1,), (-1,)), (("a",), ("b",))]
)
def test_bounds_that_are_none_are_refused(low, high):
    with pytest.raises(ValueError, match=r"Parameter\('rad', .* such as \(-1.0,\), \(1.0,\)"):
        envs.Parameter("rad", low, high)


@pytest.mark.parametrize("action_repeat", [1, 2])
def test_each_environment_pays_what_its_own_member_says(action_repeat):
    vector = envs.make_vec(NAME, 3, seed=5, action_repeat=action_repeat)
    before = vector.tasks
    vector.reset()
    for tasks in (before, vector.tasks):
        assert len({task.id for task in tasks}) == 3  # each draws its own
    members = envs.training_tasks(NAME, 3, np.random.default_rng(0))
    last, info = vector.reset(options={"tasks": members})
    assert vector.tasks == members
    np.testing.assert_array_equal(info["physics"], last)
    action = np.array([[0.5, -0.5], [1, 0], [0, 0.25]])
    for again in (copy.copy(vector), pickle.loads(pickle.dumps(vector)), vector):
        observation, paid, *_ = again.step(action)
        for index, member in enumerate(members):
            between = [
                last[index] + (step + 1) * action[index] / 2 for step in range(action_repeat)
            ]
            np.testing.assert_allclose(
                paid[index],
                sum(expected(np.array(at, np.float32), member) for at in between),
                rtol=1e-6,
            )


def test_environments_of_one_seed_draw_the_same_member():
    drawn = [envs.make(NAME, seed=seed) for seed in (3, 3, 4)]
    for env in drawn:
        env.reset()
    assert drawn[0].task == drawn[1].task != drawn[2].task
    first = drawn[0].task
    drawn[0].reset()
    assert drawn[0].task != first  # the next episode's


@pytest.mark.parametrize("with_physics", [True, False], ids=["collected", "own data"])
def test_episodes_are_relabelled_to_every_member(tmp_path, with_physics):
    buffer = datasets.buffer_folder(tmp_path, NAME, "noise")
    datasets.collect(NAME, buffer, episodes=5, collector="noise", progress=False)
    for index, path in enumerate(sorted(buffer.glob("*.npz"))):
        episode = datasets.read_episode(path)
        assert (episode.reward[1:] != -99).all()
        if not with_physics:
            datasets.write_episode(buffer, index, dataclasses.replace(episode, physics=None))
    config = DataConfig(root=str(tmp_path), algo="noise", episodes=5, tasks=7)
    data = training_data(NAME, config)
    tasks = envs.training_tasks(NAME, 7, np.random.default_rng(0))
    assert data.returns.shape == (7, 5)
    table = data.store.reward_table(tasks)  # (tasks, episodes, steps)
    for index, path in enumerate(sorted(buffer.glob("*.npz"))):
        observation = datasets.read_episode(path).observation[1:].astype(np.float32)
        for row, task in zip(table[:, index], tasks, strict=True):
            np.testing.assert_array_equal(row, expected(observation, task).astype(np.float32))


def test_data_that_reach_no_member_are_refused_for_training_and_serve_evaluations(tmp_path):
    """No distance is below 0."""
    register(reward=lambda observation, goal, scale: 1.0 * (np.abs(observation - goal).max(-1) < 0))
    buffer = datasets.buffer_folder(tmp_path, NAME, "noise")
    datasets.collect(NAME, buffer, episodes=2, collector="noise", progress=False)
    config = DataConfig(root=str(tmp_path), algo="noise", episodes=2, tasks=3)
    says = "no episode earns anything at any training task.*; allowed: more episodes"
    with pytest.raises(ValueError, match=says):
        training_data(NAME, config)
    tasks = envs.training_tasks(NAME, 3, np.random.default_rng(0))
    assert not evaluation_data(NAME, config, tasks).returns.any()


def test_members_that_run_out_are_an_error_and_no_endless_loop():
    register(training=lambda rng, count: np.c_[rng.integers(0, 2, (count, 2)), np.ones(count)])
    rng = np.random.default_rng(0)
    four = envs.training_tasks(NAME, 4, rng)
    assert len(set(four)) == 4
    with pytest.raises(ValueError, match="no more than 4 tasks, 5 are needed"):
        envs.training_tasks(NAME, 5, rng)
    with pytest.raises(ValueError, match="no more than 1 tasks besides the 3 of training"):
        envs.held_out_tasks(NAME, 2, rng, four[:3])
    with pytest.raises(ValueError, match="nothing beyond"):
        envs.held_out_tasks(NAME, 1, rng, (), beyond=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e39])
def test_a_reward_that_is_no_number_is_refused_where_it_is_acted_and_where_it_is_computed(value):
    """It would be in the data, and then in every parameter that learns from them."""
    register(reward=lambda observation, goal, scale: reward(observation, goal, scale) * 0 + value)
    task, said = envs.task(NAME, goal=(0, 0), scale=1), "NaN, infinite or beyond float32"
    vector = envs.make_vec(task, 1)
    vector.reset()
    with pytest.raises(ValueError, match=said):
        vector.step(np.zeros((1, 2)))
    with pytest.raises(ValueError, match=said):
        datasets.relabel(np.zeros((3, 2)), task)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.zeros((3, 5)),), r"physics must have shape \(rows, 2\), got \(3, 5\)"),
        ((np.zeros(2),), r"physics must have shape \(rows, 2\), got \(2,\)"),
        ((np.zeros((3, 2)), "exakt"), "mode 'exakt' is unknown; nearest match: 'exact'"),
        ((np.zeros((3, 2)), "exact"), r"needs the rows' actions, of shape \(3, 2\), got None"),
    ],
)
def test_what_cannot_be_relabelled_is_refused_as_of_any_domain(arguments, says):
    physics, *mode = arguments
    with pytest.raises(ValueError, match=says):
        datasets.relabel(physics, envs.task(NAME, goal=(0, 0), scale=1), *mode)


def test_a_reward_of_another_shape_is_refused_where_it_would_be_spread_over_steps(tmp_path):
    register(reward=lambda observation, goal, scale: np.linalg.norm(observation - goal))
    buffer = datasets.buffer_folder(tmp_path, NAME, "noise")
    datasets.collect(NAME, buffer, episodes=2, collector="noise", progress=False)
    with pytest.raises(ValueError, match=r"must have shape \(3, 2, 6\), got \(\)"):
        training_data(NAME, DataConfig(root=str(tmp_path), algo="noise", episodes=2, tasks=3))


def test_what_cannot_be_registered_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(2, 1\)"):
        register(training=lambda rng, count: rng.uniform(size=(count, 1)))
    with pytest.raises(ValueError, match="scale=.* must be a number between 0.5 and 2"):
        register(training=lambda rng, count: np.full((count, 3), 0.25))
    with pytest.raises(ValueError, match="takes the observation and goal, scale: .*'gaol'"):
        register(reward=lambda observation, gaol, scale: 0)
    with pytest.raises(ValueError, match="nothing is hidden"):
        register(parameters={})
    with pytest.raises(ValueError, match=r"speed=\(0, 1\); allowed: an envs.Parameter"):
        register(parameters={"speed": (0, 1)}, reward=lambda observation, speed: speed)
    with pytest.raises(ValueError, match="gymnasium:<module>:<id>"):
        envs.register_family("walker_any", {}, lambda rng, count: 0, reward)
