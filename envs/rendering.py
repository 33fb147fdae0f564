"""Draws pictures and videos of stored physics, in another process.

A simulating process loads no drawing library (`envs.headless`), and a broken library can end the
process that loads it. So the first picture starts a second process with MUJOCO_GL=egl (or what the
user set), which lives as long as this one. States go through its standard input, and pictures come
back through its standard output.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock, Timer
from typing import Any

import numpy as np

from envs import registry
from envs.gymnasium_tasks import is_gymnasium
from envs.registry import Task
from envs.top_down_view import top_down_view
from envs.video_files import write_frames

# What MUJOCO_GL may name, and what each needs. MuJoCo knows other words, which name no library.
RENDERERS = {
    "egl": "libEGL (Debian, Ubuntu: apt install libegl1 libgl1-mesa-dri)",
    "osmesa": "libOSMesa (Debian, Ubuntu: apt install libosmesa6)",
    "glfw": "a screen (a desktop session, or xvfb-run before the command)",
}
_UNSET = ("", "disable", "disabled", "off", "false", "0")
_DEFAULT = "egl" if sys.platform == "linux" else "glfw"
# What shows the place to reach: an array of positions of an MjData, and a name in it.
_GOAL_MARKS = {
    "point_mass": ("geom_xpos", "target"),
    "point_mass_maze": ("geom_xpos", "target"),
    "jaco": ("site_xpos", "target_site"),
}
_TIMEOUT = 60.0  # seconds for an answer: the first loads MuJoCo, others may wait for the machine


def render(
    task: str | Task, physics: np.ndarray, *, height: int = 240, width: int = 320
) -> np.ndarray:
    """Draws states.

    Args:
        task: of the body to draw, and of the goal, if it has one: pictures of the point masses and
            of jaco show it, but none of a family whose goal has yet to be drawn.
        physics: (frames, physics size), rows of a data set.
        height: pixels.
        width: pixels.

    Returns:
        (frames, height, width, 3) uint8.

    Raises:
        ValueError: physics of another body or not finite, a height or width below 1, or an
            environment of gymnasium.
        RuntimeError: this machine cannot render; one line says why.
    """
    task = registry.task(task)
    if is_gymnasium(task.name):
        raise ValueError(
            f"states of {task.id} are not stored, so they cannot be drawn later; allowed: "
            "envs.make(..., render_mode='rgb_array')"
        )
    physics = np.asarray(physics, dtype=np.float64)
    size = registry.spec(task).physics
    if physics.ndim != 2 or physics.shape[1] != size:
        wanted = f"of shape (frames, {size})"
        raise ValueError(f"physics of {task.id} must be {wanted}, got {physics.shape}")
    if not np.isfinite(physics).all():
        raise ValueError(f"physics of {task.id} must be finite: there is no picture of NaN")
    for name, pixels in (("height", height), ("width", width)):
        if not isinstance(pixels, int | np.integer) or pixels < 1:
            raise ValueError(f"{name}={pixels!r} must be a whole number of pixels, at least 1")
    frames = np.empty((len(physics), height, width, 3), np.uint8)
    if len(physics):
        renderer = _renderer(os.getpid(), _backend())
        for frame, state in zip(frames, physics, strict=True):
            frame[:] = renderer.draw(task, state, int(height), int(width))
    return frames


def write_video(path: str | Path, task: str | Task, physics: np.ndarray, *, fps: int = 30) -> Path:
    """Draws states to a video or an animation.

    Args:
        path: of the file; its suffix, .mp4 or .gif, says which it is.
        task: see `render`.
        physics: see `render`.
        fps: pictures a second.

    Returns:
        `path`.

    Raises:
        ValueError: see `render`; or no states, or an fps of 0 or less.
        RuntimeError: this machine cannot render.
        OSError: the file cannot be written whole.
    """
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0")
    path = Path(path)
    speed = {"duration": 1000 / fps} if path.suffix == ".gif" else {"fps": fps}  # ms a picture
    frames = render(task, physics)
    if not len(frames):
        raise ValueError(f"{path}: there are no states to draw")
    write_frames(path, frames, **speed)
    return path


def _backend() -> str:
    asked = os.environ.get("MUJOCO_GL", "").strip().lower()
    backend = _DEFAULT if asked in _UNSET else asked
    if backend not in RENDERERS:
        raise RuntimeError(f"cannot render with MUJOCO_GL={asked}; allowed: {', '.join(RENDERERS)}")
    return backend


class _Renderer:
    """Holds the process that draws, and talks to it."""

    def __init__(self, backend: str) -> None:
        self._backend, self._owner, self._lock = backend, os.getpid(), Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "envs.rendering"],
            env=os.environ | {"MUJOCO_GL": backend},
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.close)
        if fault := self._receive():
            others = " or ".join(name for name in RENDERERS if name != backend)
            # What to do comes first: some print no more than the beginning of a line.
            self._fail(f"it needs {RENDERERS[backend]}; or set MUJOCO_GL to {others} ({fault})")

    def draw(self, *request: Any) -> np.ndarray:
        """Draws one picture, (height, width, 3) uint8, of (task, state, height, width)."""
        with self._lock:
            try:
                pickle.dump(request, self._process.stdin)
                self._process.stdin.flush()
            except OSError:
                pass  # it ended, which the missing answer reports
            answer = self._receive()
        if isinstance(answer, str):
            task, _, height, width = request
            self._fail(f"{task.id}, {height} x {width} pixels: {answer}")
        return answer

    def close(self) -> None:
        """Ends the process; the next picture starts another."""
        if os.getpid() != self._owner:
            return  # this is a fork, and the process draws for its parent
        _renderer.cache_clear()
        atexit.unregister(self.close)
        self._process.kill()
        self._process.communicate()

    def _receive(self) -> Any:
        """Returns the next answer: None, a picture, or text that says what is wrong."""
        start = time.monotonic()
        timer = Timer(_TIMEOUT, self._process.kill)
        timer.start()
        try:
            return pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            if time.monotonic() - start >= _TIMEOUT:
                return f"no answer in {_TIMEOUT:g} s"
            return f"the process that draws ended with code {self._process.wait()}"
        except BaseException:  # interrupted, so the next answer would belong to this request
            self.close()
            raise
        finally:
            timer.cancel()

    def _fail(self, reason: str) -> None:
        self.close()
        raise RuntimeError(f"cannot render with MUJOCO_GL={self._backend}: {reason}")


@lru_cache
def _renderer(process: int, backend: str) -> _Renderer:
    """Returns the renderer of `process`: after a fork, the child needs its own."""
    return _Renderer(backend)


def _serve() -> None:
    """Draws what standard input asks for until it ends.

    The first answer is None, or says why nothing can be drawn.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # prints of libraries are no answers

    def send(answer: Any) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    try:
        # Before `envs.headless` is, so that dm_control loads the drawing library.
        from dm_control.mujoco import Physics

        Physics.from_xml_string("<mujoco/>").render(height=1, width=1)
    except Exception as error:
        return send(_one_line(error))
    send(None)
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            send(_draw(*request))
        except Exception as error:
            send(_one_line(error))


def _draw(task: Task, state: np.ndarray, height: int, width: int) -> np.ndarray:
    physics = _environment(task.domain, height, width).physics
    with physics.reset_context():
        physics.set_state(state)
    if task.domain in _GOAL_MARKS:
        positions, name = _GOAL_MARKS[task.domain]
        # Set in the data: MuJoCo does not read the model's position of a mark at its body's origin.
        getattr(physics.named.data, positions)[name, :2] = _goal(task)
    return physics.render(height=height, width=width, camera_id=0)


def _goal(task: Task) -> Sequence[float]:
    """Returns (x, y) of the place to reach; of a family that has yet to be drawn, far away."""
    from envs.domains.jaco import CORNERS  # after dm_control, see `_serve`

    if view := top_down_view(task):
        return view.goal
    return task.params.get("goal", CORNERS.get(task.behaviour, (1e3, 1e3)))


@lru_cache(maxsize=8)  # each holds a framebuffer
def _environment(domain: str, height: int, width: int) -> Any:
    """Returns a dm_control environment whose framebuffer holds pictures of this size."""
    from envs.domain import load_domain  # after dm_control, see `_serve`

    body = load_domain(domain)
    environment = body.build(body.any_behaviour)
    buffer = environment.physics.model.vis.global_
    buffer.offheight, buffer.offwidth = max(height, buffer.offheight), max(width, buffer.offwidth)
    return environment


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    _serve()
