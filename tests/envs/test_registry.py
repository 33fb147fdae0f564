"""Tasks have names, members and draws."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import envs
from tests.seeds import rng

ROOT = Path(__file__).parents[2]


def test_names():
    """There are 31 single tasks and eleven families."""
    assert len(envs.tasks()) == 42
    assert len(envs.families()) == 11
    assert set(envs.families()) < set(envs.tasks())


def test_imports_are_light():
    """Naming tasks and opening data load no simulator."""
    code = (
        "import sys, envs, datasets; envs.spec(envs.task('walker_any')); "
        "print([m for m in ('mujoco', 'dm_control', 'gymnasium', 'jax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_task_identity():
    """Tasks are values: equal parameters make equal tasks with equal ids."""
    goal = envs.task("point_mass_goal", goal=(0.1, np.float32(-0.1)))
    assert goal == envs.task("point_mass_goal", goal=[0.1, -0.1])
    assert hash(goal) == hash(envs.task("point_mass_goal", goal=(0.1, -0.1)))
    assert goal.id == "point_mass_goal(goal=0.1,-0.1)"
    assert goal.params["goal"] == (0.1, -0.1)
    assert goal.domain == "point_mass"
    assert envs.task(goal) is goal
    # Kept rewards are known by this, so that others would be computed again.
    assert repr(envs.task(np.str_("walker_walk"))) == "Task(name='walker_walk', params={})"
    for zero in (-0.0, -1e-9):  # rounded to micrometres
        assert envs.task("cheetah_speed", speed=zero).id == "cheetah_speed(speed=0)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("walker_wlak", {}), "nearest match: 'walker_walk'"),
        (("walker_walk", {"goal": (0, 0)}), "takes no parameter 'goal'"),
        (("point_mass_goal", {"goal": (0.5, 0)}), "between -0.29 and 0.29"),
        (("point_mass_goal", {"goal": (0.1,)}), "two numbers"),
        (("point_mass_goal", {"target": (0.1, 0)}), "allowed: goal"),
        (("cheetah_speed", {"sped": 1}), "nearest match: 'speed'; allowed: speed"),
        (("cheetah_speed(speed=1;speed=2)", {}), "cannot be read; allowed: an id such as"),
        (("cheetah_speed", {"speed": 12}), "a number between -10 and 10 m/s; nearest match: 10.0"),
        (("cheetah_speed", {"speed": "fast"}), "must be a number"),
        (("cheetah_speed", {"speed": float("nan")}), "must be a number between"),
        (("point_mass_maze_goal", {"goal": (0.1, 0.01)}), "outside of the walls"),
        (("jaco_goal", {"goal": (0.3, 0.1)}), r"nearest match: \(0.2, 0.1\)"),
        (("cheetah_sped(speed=1)", {}), "nearest match: 'cheetah_speed'"),
        (("cheetah_speed(speed=)", {}), "cannot be read"),
        (("cheetah_speed(speed=1)", {"speed": 1}), "has its parameters already"),
        ((3, {}), "task 3 is unknown; allowed: cartpole_balance"),
        ((["walker_walk"], {}), r"task \['walker_walk'\] is unknown; nearest match: 'walker_walk'"),
    ],
)
def test_refusals(arguments, message):
    """Errors for wrong names and values say what is allowed."""
    name, params = arguments
    with pytest.raises(ValueError, match=message):
        envs.task(name, **params)


def test_a_task_made_by_hand_is_refused_where_its_domain_is_needed():
    with pytest.raises(ValueError, match="task 'walker_wlak' is unknown; nearest match"):
        envs.spec(envs.Task("walker_wlak"))


def test_draws():
    """Members are drawn equally often, goals continuously; a single task is repeated."""
    data = rng(0)
    counts = Counter(task.name for task in envs.draw_tasks("quadruped_any", 18, data))
    assert len(counts) == 6
    assert set(counts.values()) == {3}
    # One of six is missed by 100 draws once in 1e7 cases.
    assert len({envs.draw_tasks("quadruped_any", 1, data)[0] for _ in range(100)}) == 6
    goals = envs.training_tasks("point_mass_goal", 300, data)
    assert len({goal.id for goal in goals}) == 300
    radii = [np.hypot(*goal.params["goal"]) for goal in goals]
    np.testing.assert_allclose(
        radii, 0.15, rtol=0, atol=np.sqrt(0.5) * 1e-6
    )  # both coordinates are rounded to micrometres
    assert envs.draw_tasks("walker_run", 2, data) == [envs.task("walker_run")] * 2
    assert envs.training_tasks("walker_any", 300, data) == envs.members("walker_any")
    assert envs.training_tasks("walker_run", 300, data) == [envs.task("walker_run")]
