"""Copies of environments, physics and planners take the path of the original and leave it alone.

The reference is another environment of the same seed, made afresh and given the same actions.
"""

import copy
import multiprocessing
import pickle
import subprocess
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest

import envs
from datasets.collectors import collectors
from datasets.mppi_collector import RECIPES
from envs.batch import Batch
from envs.episode_start import episode_starter
from envs.mppi import MPPI
from envs.rewards import Rewards
from envs.scattered_array import ScatteredArray
from tests.processes import environment
from tests.seeds import rng

TASKS = [
    *("cartpole_swingup", "cheetah_run", "walker_walk", "quadruped_run", "hopper_hop"),
    *("jaco_reach_top_left", "point_mass_maze_reach_top_left", "walker_any", "point_mass_goal"),
]
WAYS = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda given: pickle.loads(pickle.dumps(given)),
    "cloudpickle": lambda given: cloudpickle.loads(cloudpickle.dumps(given)),
}


def flat(returned):
    """Returns what `reset` or `step` returned as a list of arrays."""
    *arrays, info = returned
    return [np.asarray(one) for one in (*arrays, *(info[key] for key in sorted(info)))]


def future(env, actions):
    """Resets the first environment, takes the actions, resets all, and returns every result."""
    first = flat(
        env.reset(options={"reset_mask": np.arange(env.num_envs) == 0})
    )  # observes the others as they are
    steps = [flat(env.step(action)) for action in actions]
    return [first, *steps, flat(env.reset())]


def assert_equal(one, other):
    for mine, yours in zip(one, other, strict=True):
        for left, right in zip(mine, yours, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_of_environments_has_the_same_future(name, steps):
    """Copies are made after a reset and within an episode; neither disturbs the other."""
    original, afresh = (envs.make_vec(name, 3, seed=7) for _ in range(2))
    actions = rng(0).uniform(-1, 1, (steps + 9, *original.action_space.shape))
    for env in (original, afresh):
        env.reset()
        for action in actions[:steps]:
            env.step(action)
    expected = future(afresh, actions[steps:])
    twins = [way(original) for way in WAYS.values()]
    for env in (*twins, original):
        assert_equal(future(env, actions[steps:]), expected)
        assert env.tasks == afresh.tasks


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_one_environment_has_the_same_future(way):
    """Alone and within gymnasium's wrappers, whose shallow copies share what they wrap."""
    wrap = [lambda env: env]
    if way != "copy":
        wrap.append(lambda env: gymnasium.wrappers.RecordEpisodeStatistics(env))
        wrap.append(lambda env: gymnasium.wrappers.TimeLimit(env, 100))
    for wrapped in wrap:
        original, afresh = (wrapped(envs.make("hopper_hop", seed=3)) for _ in range(2))
        actions = rng(1).uniform(-1, 1, (9, 4))
        for env in (original, afresh):
            env.reset()
            env.step(actions[0])
        # Without a wrapper's own entries: they hold the time of day.
        expected = [flat((*afresh.step(action)[:4], {})) for action in actions]
        twin = WAYS[way](original)
        for env in (twin, original):
            assert_equal([flat((*env.step(action)[:4], {})) for action in actions], expected)


def test_copies_before_the_first_reset_and_after_close():
    """A copy is in the state of the original: not started, or closed."""
    original = envs.make_vec("cartpole_swingup", 2, seed=4)
    twin = pickle.loads(pickle.dumps(original))
    with pytest.raises(gymnasium.error.ResetNeeded):
        twin.step(np.zeros((2, 1)))
    np.testing.assert_array_equal(twin.reset()[0], original.reset()[0])
    original.close()
    twin.step(np.zeros((2, 1)))
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        copy.deepcopy(original).reset()


def _elsewhere(env, actions, results):
    results.put(future(env, actions))


def test_an_environment_goes_on_in_another_process():
    """A spawned process shares no memory with this one."""
    original = envs.make_vec("walker_run", 2, seed=1)
    original.reset()
    actions = rng(2).uniform(-1, 1, (10, 2, 6))
    original.step(actions[0])
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_elsewhere, args=(original, actions[1:], results))
    process.start()
    there = results.get(timeout=120)
    process.join()
    assert_equal(there, future(original, actions[1:]))


FORKED = """
import os, signal
os.cpu_count = lambda: 2
import numpy as np
import envs
env = envs.make_vec("walker_run", 16, seed=1)
env.reset()
action = np.ones((16, 6))
env.step(action)
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
signal.alarm(30)  # ends a child that waits for threads that it lacks
print(env.step(action)[0].tolist(), flush=True)
os._exit(0)
"""


def test_environments_with_threads_go_on_in_a_fork():
    line = [sys.executable, "-c", FORKED]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    child, parent = done.stdout.splitlines()
    assert child == parent


FORKED_IN_A_COMPUTATION = """
import os, signal, threading
import numpy as np
from envs import readings
states, held = np.zeros((1, 18)), threading.Event()
compute = readings._compute
def never_done(*args):
    held.set()
    threading.Event().wait()
readings._compute = never_done
threading.Thread(target=readings.readings_of, args=("walker", states), daemon=True).start()
held.wait()
readings._compute = compute
if child := os.fork():
    os._exit(os.waitpid(child, 0)[1] != 0)
signal.alarm(30)
readings.readings_of("walker", states)
os._exit(0)
"""


def test_a_fork_computes_readings_where_a_thread_of_its_parent_did():
    line = [sys.executable, "-c", FORKED_IN_A_COMPUTATION]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("vectorization_mode", ["sync", "async"])
def test_gymnasium_makes_vectors_of_them(vectorization_mode):
    """Environments in gymnasium's processes take the path of ours."""
    theirs = gymnasium.make_vec("exorl/cheetah_run-v0", 2, vectorization_mode=vectorization_mode)
    ours = envs.make_vec("cheetah_run", 2)
    np.testing.assert_array_equal(theirs.reset(seed=3)[0], ours.reset(seed=3)[0])
    for action in rng(3).uniform(-1, 1, (5, 2, 6)).astype(np.float32):
        for left, right in zip(theirs.step(action)[:4], ours.step(action)[:4], strict=True):
            np.testing.assert_array_equal(left, right)
    theirs.close()


def test_a_copy_remembers_a_simulation_that_diverged():
    """MuJoCo resets such a state in silence; the end of the episode reports it, also of a copy."""
    original = envs.make_vec("walker_walk", 2, horizon=3)
    original.reset()
    original._batch._datas[1].qpos[0] = np.nan
    original.step(np.zeros((2, 6)))
    for env in (copy.deepcopy(original), pickle.loads(pickle.dumps(original)), original):
        env.step(np.zeros((2, 6)))
        with pytest.raises(FloatingPointError, match=r"states \[1\] diverged"):
            env.step(np.zeros((2, 6)))


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_planner_plans_the_same(way):
    """Plans draw noise, so a copy has a generator of its own in the same state."""
    env = envs.make_vec("cartpole_swingup", 2)
    physics = env.reset()[1]["physics"]
    original, afresh = (MPPI(env.tasks, RECIPES["cartpole"].planner, rng(5)) for _ in range(2))
    for planner in (original, afresh):
        planner.plan(physics)
    expected = [afresh.plan(physics) for _ in range(2)]
    twin = WAYS[way](original)
    for planner in (twin, original):
        np.testing.assert_array_equal([planner.plan(physics) for _ in range(2)], expected)


@pytest.mark.parametrize("name", ["point_mass_maze_reach_top_left", "point_mass_goal"])
def test_a_copy_of_a_collector_acts_the_same(name):
    env = envs.make_vec(name, 4)
    physics = env.reset()[1]["physics"]
    for kind in collectors(name).values():
        original, afresh = (kind(env.tasks, rng(6), 3) for _ in range(2))
        for collector in (original, afresh):
            collector.act(0, physics)
        expected = [afresh.act(step, physics) for step in (1, 2)]
        for way in ("deepcopy", "pickle"):
            twin = WAYS[way](original)
            np.testing.assert_array_equal([twin.act(step, physics) for step in (1, 2)], expected)
        np.testing.assert_array_equal([original.act(step, physics) for step in (1, 2)], expected)


@pytest.mark.parametrize("way", WAYS)
def test_copies_of_the_parts_of_physics_are_independent(way):
    """Copies of states, arrays and rewards are independent; compiled models are shared."""
    batch = Batch("hopper", ["hop", "stand"])
    batch.start(
        ["hop", "stand"], [np.random.RandomState(seed) for seed in (1, 2)], np.ones(2, bool)
    )
    twin = WAYS[way](batch)
    before = batch.physics.copy()
    twin.step(np.full((2, 4), 0.3))
    np.testing.assert_array_equal(batch.physics, before)
    batch.step(np.full((2, 4), 0.3))
    assert not np.array_equal(batch.physics, before)
    np.testing.assert_array_equal(batch.physics, twin.physics)
    assert twin.model is batch.model
    pays = Rewards([envs.task("hopper_hop"), envs.task("hopper_stand")])
    control = np.zeros((2, 4))
    paid = pays(batch.readings, control)
    np.testing.assert_array_equal(WAYS[way](pays)(batch.readings, control), paid)
    assert WAYS[way](episode_starter("hopper", "hop")) is episode_starter("hopper", "hop")
    goal = envs.task("point_mass_goal", goal=(0.1, 0.1))
    assert WAYS[way](goal) == goal
    if way != "copy":  # a shallow copy of arrays shares them, as numpy's users expect
        pieces = [[np.arange(3.0)], [np.arange(3.0, 6.0)]]
        own = ScatteredArray(pieces)
        WAYS[way](own).write(np.zeros((2, 3)))
        np.testing.assert_array_equal(own.read(), np.concatenate(pieces))


def test_a_simulation_that_diverged_is_reported_at_its_own_end():
    """Where other episodes of the vector go on."""
    env, action = envs.make_vec("walker_walk", 2, horizon=3), np.zeros((2, 6))
    env.reset()
    env.step(action)
    env.reset(options={"reset_mask": np.array([True, False])})
    env._batch._datas[1].qpos[0] = np.nan
    env.step(action)
    with pytest.raises(FloatingPointError, match=r"states \[1\] diverged"):
        env.step(action)
