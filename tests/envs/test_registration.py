"""Gymnasium knows our tasks, whichever package is imported first."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import envs

ROOT = Path(__file__).parents[2]
EVERY = "assert all(f'exorl/{name}-v0' in gymnasium.registry for name in envs.tasks())"
LIGHT = "assert not {'mujoco', 'dm_control', 'jax'} & set(sys.modules)"


def run(*lines):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(("import sys", *lines))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "lines",
    [
        ("import envs", "import gymnasium"),
        ("import gymnasium", "import envs"),
        ("import envs", "from gymnasium.vector import VectorEnv", "import gymnasium"),
        (
            "import importlib.util, envs",
            "importlib.util.find_spec('gymnasium')",
            "import gymnasium",
        ),
        ("import gymnasium", "gymnasium.spec('CartPole-v1')", "import envs", "envs.register()"),
    ],
)
def test_either_order_registers_every_task(lines):
    """Neither order loads a simulator."""
    run(*lines, EVERY, LIGHT)


def test_the_module_may_stand_before_the_id():
    """`module:id` makes gymnasium import the module, which here is imported already."""
    make = "assert gymnasium.make('envs:exorl/cartpole_swingup-v0').reset(seed=0)[0].shape == (5,)"
    run("import envs, gymnasium", make)
    run("import gymnasium", make)


def test_environments_made_by_gymnasium_differ_until_they_are_seeded():
    """So do gymnasium's own; otherwise all of a vector would have the same episode."""
    first, second = (gymnasium.make("exorl/walker_walk-v0") for _ in range(2))
    assert not np.array_equal(first.reset()[0], second.reset()[0])
    np.testing.assert_array_equal(first.reset(seed=2)[0], second.reset(seed=2)[0])
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    again = gymnasium.make(first.spec)
    np.testing.assert_array_equal(again.reset(seed=2)[0], first.reset(seed=2)[0])
    vector = gymnasium.make_vec("exorl/walker_walk-v0", 3, vectorization_mode="sync")
    assert len(np.unique(vector.reset()[0], axis=0)) == 3
    assert not np.array_equal(*(envs.make("walker_walk", seed=None).reset()[0] for _ in range(2)))
