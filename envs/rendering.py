"""Frames and videos of stored physics.

MuJoCo binds its renderer when it is first imported, and a broken GL library can end the process; so frames are drawn in a process
of their own with MUJOCO_GL=egl (or what the user set).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from envs import registry
from envs.registry import Task

RENDERERS = ("egl", "osmesa", "glfw")
_SECONDS_TO_START = 60
_SECONDS_A_FRAME = 0.5


def render(task: str | Task, physics: np.ndarray, *, height: int = 240, width: int = 320) -> np.ndarray:
    """Draw states.

    Args:
        task: whose body, and whose goal where it has one to show.
        physics: (frames, physics size), rows of a data set.
        height: pixels.
        width: pixels.

    Returns:
        (frames, height, width, 3) uint8.

    Raises:
        RuntimeError: this machine cannot render; one line says why.
    """
    task = registry.task(task)
    backend = os.environ.get("MUJOCO_GL", "")
    environment = os.environ | {"MUJOCO_GL": backend if backend in RENDERERS else "egl"}
    with tempfile.TemporaryDirectory() as folder:
        states, frames = Path(folder) / "states.npy", Path(folder) / "frames.npy"
        np.save(states, np.asarray(physics, dtype=np.float64))
        goal = [f"{number}" for number in task.params.get("goal", ())]
        command = [sys.executable, "-m", "envs.rendering", task.name, str(states), str(frames), str(height), str(width), *goal]
        limit = _SECONDS_TO_START + _SECONDS_A_FRAME * len(physics)
        try:
            root = Path(__file__).parents[1]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False, cwd=root)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"cannot render with MUJOCO_GL={environment['MUJOCO_GL']}: no answer in {limit:.0f} s") from None
        if not frames.exists():
            reason = (done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"])[-1]
            raise RuntimeError(f"cannot render with MUJOCO_GL={environment['MUJOCO_GL']}: {reason}")
        return np.load(frames)


def write_video(path: str | Path, task: str | Task, physics: np.ndarray, *, fps: int = 30) -> Path:
    """Draw states to a video or an animation; the suffix of `path` (.mp4, .gif) says which.

    Raises:
        RuntimeError: this machine cannot render.
    """
    import imageio.v3 as imageio

    path = Path(path)
    pace = {"duration": 1000 / fps} if path.suffix == ".gif" else {"fps": fps}
    imageio.imwrite(path, render(task, physics), **pace)
    return path


def draw(task: Task, physics: np.ndarray, height: int = 240, width: int = 320) -> np.ndarray:
    """`render` within this process, which must have started with a MUJOCO_GL that can draw."""
    scene = _scene(task.domain)
    if "goal" in task.params:
        scene.named.model.geom_pos["target", :2] = task.params["goal"]
    frames = np.empty((len(physics), height, width, 3), np.uint8)
    for index, state in enumerate(physics):
        with scene.reset_context():
            scene.set_state(state)
        frames[index] = scene.render(height=height, width=width, camera_id=0)
    return frames


@lru_cache
def _scene(domain: str) -> object:
    from envs.domain import load

    body = load(domain)
    _scene.environment = body.build(next(iter(body.rewards)))  # composer's physics is a weak reference: hold its owner
    return _scene.environment.physics


if __name__ == "__main__":
    name, states_path, frames_path, rows, columns, *where = sys.argv[1:]
    given = {"goal": tuple(map(float, where))} if where else {}
    np.save(frames_path, draw(registry.task(name, **given), np.load(states_path), int(rows), int(columns)))
