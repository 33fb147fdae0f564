"""Environments keep gymnasium's rules: seeds, families, options and errors."""

import gc
import subprocess
import sys
import weakref

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.scattered_array import ScatteredArray
from tests.processes import environment
from tests.seeds import SEED, rng
from tests.tolerances import assert_within, rounding, unit


@pytest.mark.filterwarnings(
    "error", "ignore:.*A Box observation space (min|max)imum value is -?infinity"
)
@pytest.mark.parametrize(
    "name",
    [
        *("cartpole_swingup", "cheetah_run", "walker_any", "quadruped_jump", "hopper_hop"),
        *("jaco_reach_top_left", "point_mass_maze_any", "point_mass_goal"),
    ],
)
def test_gymnasium_accepts_it(name):
    """`check_env` finds nothing, not even a warning."""
    envs.register()
    check_env(
        gymnasium.make(f"exorl/{name}-v0").unwrapped, skip_render_check=True
    )  # needs a GL library


@pytest.mark.parametrize("name", envs.tasks())
def test_sizes(name):
    """The registry's sizes, which need no simulator, are the simulator's."""
    spec = envs.spec(name)
    vector = envs.make_vec(name, num_envs=1)
    observation, info = vector.reset()
    assert observation.shape == (1, spec.observation)
    assert observation.dtype == np.float32
    assert info["physics"].shape == (1, spec.physics)
    assert vector.single_action_space.shape == (spec.action,)


def test_seeds():
    """A seed gives the same start and the same task again; without one the streams go on."""
    vector = envs.make_vec("point_mass_goal", num_envs=3, seed=5)
    first, tasks = vector.reset()[0], vector.tasks
    second = vector.reset()[0]
    assert not np.array_equal(first, second)
    assert vector.tasks != tasks
    np.testing.assert_array_equal(vector.reset(seed=5)[0], first)
    assert vector.tasks == tasks
    np.testing.assert_array_equal(vector.reset(seed=[7, 6, 5])[0][2], first[0])


def test_threads_change_nothing():
    """64 environments on threads take the path that each takes alone."""
    many = envs.make_vec("walker_run", num_envs=64, seed=SEED)
    few = envs.make_vec("walker_run", num_envs=2, seed=SEED + 62)
    many.reset()
    few.reset()
    action = rng(0).uniform(-1, 1, (20, 64, 6))
    for step in action:
        observation, reward, _, _, info = many.step(step)
        alone, own, _, _, state = few.step(step[62:])
    np.testing.assert_array_equal(info["physics"][62:], state["physics"])
    # Processors compute several rows of an array at a time, and the last rows may take other
    # instructions, which round otherwise.
    assert_within(
        observation[62:],
        alone,
        (2 * unit() + rounding(100, np.float64)) * max(1, np.abs(alone).max()),
    )
    assert_within(reward[62:], own, rounding(100, np.float64))


def test_family_members():
    """Options choose the member; tasks of a vector may differ, and each has its own reward."""
    vector = envs.make_vec("walker_any", num_envs=4)
    vector.reset(options={"task": "walker_flip"})
    assert {task.name for task in vector.tasks} == {"walker_flip"}
    members = envs.members("walker_any")
    several = [*members, members[1]]
    mixed = envs.make_vec(several, seed=0)
    alone = [envs.make(member, seed=index) for index, member in enumerate(several)]
    mixed.reset()
    for env in alone:
        env.reset()
    action = np.full((5, 6), 0.5)
    for _ in range(5):
        reward = mixed.step(action)[1]
        assert_within(
            reward,
            [env.step(half)[1] for env, half in zip(alone, action, strict=True)],
            rounding(100, np.float64),
        )
    goal = envs.make("point_mass_goal")
    goal.reset(options={"goal": (0.1, 0.1)})
    assert goal.task == envs.task("point_mass_goal", goal=(0.1, 0.1))
    vector.reset(options={"tasks": members})
    assert vector.tasks == members
    speeds = [envs.task("cheetah_speed", speed=speed) for speed in (-1, 2)]
    cheetahs = envs.make_vec("cheetah_speed", 2)
    cheetahs.reset(options={"tasks": speeds})
    assert cheetahs.tasks == speeds


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("walker_any", {"task": "walker_runn"}, "nearest match: 'walker_run'"),
        ("walker_any", {"goal": (0, 0)}, "allowed: {'task': ...}"),
        ("walker_run", {"task": "walker_walk"}, "allowed: none"),
        ("point_mass_goal", {"goal": (1, 1)}, "between"),
        ("cheetah_speed", {"goal": (0, 0)}, "allowed: {'speed': ...}"),
        ("walker_any", {"tasks": ["walker_run"] * 2}, "needs 1 tasks"),
        ("walker_any", {"tasks": ["walker_any"]}, "no member"),
        ("cheetah_speed", {"tasks": ["cheetah_run"]}, "no member"),
        ("walker_any", "walker_run", "must be a dict or None, got 'walker_run'"),
        ("cheetah_speed", {"tasks": None}, "needs 1 tasks, .*, got None"),
        ("cheetah_speed", {"tasks": {"speed": 1}}, "needs 1 tasks, .*, got {'speed': 1}"),
    ],
)
def test_wrong_options(name, options, message):
    """The errors say which reset options fit."""
    with pytest.raises(ValueError, match=message):
        envs.make(name).reset(options=options)


def test_wrong_use():
    """Wrong vectors and actions, and steps after the end, are refused."""
    with pytest.raises(ValueError, match="share a domain"):
        envs.make_vec(["walker_run", "cheetah_run"])
    with pytest.raises(ValueError, match="num_envs=3 differs"):
        envs.make_vec(["walker_run", "walker_walk"], num_envs=3)
    for count in (1.5, "2"):
        with pytest.raises(ValueError, match=f"num_envs={count!r}; allowed: a whole number"):
            envs.make_vec("walker_run", count)
    for task in (3, ["walker_run", 3]):
        with pytest.raises(ValueError, match="task 3 is unknown"):
            envs.make_vec(task)
    vector = envs.make_vec("point_mass_goal", num_envs=2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros((2, 2)))
    vector.reset()
    with pytest.raises(ValueError, match=r"of shape \(2, 2\), got nan in it"):
        vector.step(np.full((2, 2), np.nan))
    for _ in range(12):
        truncated = vector.step(np.zeros((2, 2)))[3]
    assert truncated.all()
    with pytest.raises(gymnasium.error.ResetNeeded):
        vector.step(np.zeros((2, 2)))


def test_close_frees_simulations(monkeypatch):
    """Closed environments leave nothing of MuJoCo's behind, without the garbage collector."""

    def use():
        vector = envs.make_vec(
            ["cheetah_run", "cheetah_run_backward", "cheetah_flip", "cheetah_flip_backward"]
        )
        vector.reset(seed=0)
        vector.step(np.zeros(vector.action_space.shape))
        vector.close()

    use()  # what is kept on purpose, one start of each task, is there from now on
    made = []

    class Recorded:
        def __new__(cls, *arguments):
            made.append(weakref.ref(data := real(*arguments)))
            return data

    real = mujoco.MjData
    monkeypatch.setattr(mujoco, "MjData", Recorded)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            use()
        assert len(made) == 12
        assert not any(reference() for reference in made)
        assert (
            gc.collect() < 100
        )  # dm_control's environments, thousands of objects each, are not built again
    finally:
        gc.enable()


def test_closed_environments_say_so():
    """Neither kind can be used after `close`, which may be called twice."""
    for closed in (envs.make("cartpole_swingup"), envs.make_vec("walker_walk", 64)):
        closed.reset()
        closed.close()
        closed.close()
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make another"):
            closed.step(np.zeros(closed.action_space.shape))
        with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make another"):
            closed.reset()


def test_scattered_memory():
    """Only the pieces are read and written, as the rows of one array."""
    data = rng(0)
    blocks = [data.standard_normal(size) for size in (7, 100_000, 12, 9, 30, 5)]
    before = [block.copy() for block in blocks]
    rows = [
        [blocks[2][1:4], blocks[0][:2]],
        [blocks[1][50_000:50_003], blocks[3][7:9]],
        [blocks[4][10:13], blocks[5][3:]],
    ]
    scattered = ScatteredArray(rows)
    np.testing.assert_array_equal(scattered.read(), [np.concatenate(row) for row in rows])
    values = data.standard_normal((3, 5))
    scattered.write(values)
    np.testing.assert_array_equal([np.concatenate(row) for row in rows], values)
    for row in rows:
        for piece in row:
            piece[:] = 0
    for block, old in zip(blocks, before, strict=True):
        assert np.count_nonzero(block != old) == sum(
            np.shares_memory(block, piece) * piece.size for row in rows for piece in row
        )


def test_a_repeated_action_is_that_action_held_and_its_rewards_summed():
    tasks = ["walker_walk", "walker_run", "walker_flip"]
    plain, repeated = envs.make_vec(tasks), envs.make_vec(tasks, action_repeat=5, horizon=3)
    assert [task.name for task in repeated.tasks] == tasks
    np.testing.assert_array_equal(plain.reset(seed=SEED + 3)[0], repeated.reset(seed=SEED + 3)[0])
    for action in rng(0).uniform(-1, 1, (3, 3, 6)):
        steps = [plain.step(action) for _ in range(5)]
        observation, reward, _, truncated, info = repeated.step(action)
        np.testing.assert_array_equal(observation, steps[-1][0])
        np.testing.assert_array_equal(info["physics"], steps[-1][4]["physics"])
        np.testing.assert_allclose(
            reward, sum(step[1] for step in steps), rtol=0, atol=rounding(5, np.float64) * 5
        )
    assert truncated.all()
    with pytest.raises(gymnasium.error.ResetNeeded, match="lasts 3 steps"):
        repeated.step(action)
    assert envs.make_vec("walker_walk", 1, action_repeat=300).horizon == 3
    # An episode of 2.5 steps would never be over.
    for repeat, horizon in ((300, 4), (0, None), (1, 0), (1.5, None), (1, 2.5)):
        with pytest.raises(ValueError, match="does not fit the 1000 steps.*allowed: whole numbers"):
            envs.make_vec("walker_walk", 1, action_repeat=repeat, horizon=horizon)


@pytest.mark.slow
def test_a_cheetah_is_made_without_a_warning_that_nobody_can_act_on():
    """Other warnings of the libraries are told."""
    script = (
        "import envs, logging; envs.make('cheetah_run').reset(seed=0); "
        "logging.getLogger('absl').warning('another')"
    )
    made = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stderr == "WARNING:absl:another\n"
