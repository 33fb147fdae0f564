"""A missing or misnamed drawing library stops nothing but drawing."""

import os
import subprocess
import sys
from pathlib import Path

from tests.no_drawing_library import hide_in

ROOT = Path(__file__).parents[2]
SIMULATE = """
import os
import numpy as np
import datasets, envs
from datasets.mppi_collector import MPPICollector

asked = os.environ["MUJOCO_GL"]
env = envs.make("cartpole_swingup")
env.reset()
_, info = envs.make_vec("walker_walk", 2).reset(seed=0)
datasets.relabel(info["physics"], "walker_flip")
MPPICollector([env.task], np.random.default_rng(0), 1).act(0, np.zeros((1, 4)))
assert os.environ["MUJOCO_GL"] == asked
"""
DRAW = """
for name in {names}:
    os.environ["MUJOCO_GL"] = name
    try:
        print("drawn", envs.render("cartpole_swingup", np.zeros((1, 4))).shape)
    except RuntimeError as error:
        print(error)
"""


def run(tmp_path, backend, names):
    """Runs everything, then draws, and returns the printed lines."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    kept = {key: value for key, value in os.environ.items() if key not in screens}
    done = subprocess.run(
        [sys.executable, "-c", SIMULATE + DRAW.format(names=names)],
        cwd=ROOT,
        env=kept | hide_in(tmp_path) | {"MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_only_drawing_fails_and_says_what_is_missing(tmp_path):
    """The error names the library, what to install, and the other choices."""
    egl, osmesa, glfw = run(tmp_path, "egl", ("egl", "osmesa", "glfw"))
    assert egl.startswith("cannot render with MUJOCO_GL=egl: it needs libEGL (")
    assert "apt install libegl1 libgl1-mesa-dri); or set MUJOCO_GL to osmesa or glfw (" in egl
    assert osmesa.startswith("cannot render with MUJOCO_GL=osmesa: it needs libOSMesa (")
    assert glfw.startswith("cannot render with MUJOCO_GL=glfw: it needs a screen (")


def test_a_word_that_names_no_library_keeps_only_drawing_from_running(tmp_path):
    assert run(tmp_path, "nonsense", ("nonsense", "glx")) == [
        "cannot render with MUJOCO_GL=nonsense; allowed: egl, osmesa, glfw",
        "cannot render with MUJOCO_GL=glx; allowed: egl, osmesa, glfw",
    ]
