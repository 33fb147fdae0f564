"""Draws moving pictures of attempts, several tasks beside each other, from stored rollouts.

Tasks of the plane are drawn from above, with their goals and walls, on any machine. Other bodies
are rendered by MuJoCo, where the machine can. Every picture carries the attempt's number and the
return so far; each attempt ends with a pause.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import envs
from agentic_transformer.config import EvaluateCommand
from agentic_transformer.evaluation.results_folder import ROLLOUTS, VIDEO
from envs.gymnasium_tasks import is_gymnasium
from envs.video_files import write_frames
from experiments.reports.pictures import drawing_failure, plane_limit
from experiments.reports.return_table import return_text

FRAMES_PER_SECOND = 10
PAUSE = 10
"""Frames for which the end of an attempt stays: a second."""

LONGEST = 48
"""Frames of an attempt; of longer ones, some steps are left out."""

HEADER = 32  # pixels; sizes are multiples of 16, as video encoders want them
PANEL = 240  # pixels of height, and of width from above
_FINE = 2  # pictures from above are drawn this many times larger, then shrunk: smooth lines
_INK, _PATH, _GOAL, _WALL = "#222222", "#0b5fa5", "#8fc04e", "#b8b0a4"

Panel = Callable[[np.ndarray, int], Image.Image]
"""Draws the last of the states so far (t + 1, P) of the task with a number."""


def save_video(config: EvaluateCommand, run: Path, folder: Path) -> None:
    """Draws attempts of an evaluation to `attempts.mp4`.

    If the video cannot be drawn, one line says why.

    Args:
        config: settings of the evaluation; without `eval.video` nothing is drawn.
        run: folder of the trained run.
        folder: folder of the results; without stored rollouts there is nothing to draw.
    """
    if not (config.eval.video and (folder / ROLLOUTS).exists()):
        return
    with np.load(folder / ROLLOUTS, allow_pickle=False) as stored:
        rollouts = dict(stored)
    if why_not_drawn(str(rollouts["task_id"][0])):
        return  # it is so for every run of the task, and its attempts are drawn as returns

    def draw(path: Path) -> None:
        write_attempts(path, rollouts, config.eval.trajectories)

    if not drawing_failure(folder / VIDEO, draw):
        print(folder / VIDEO, flush=True)


def why_not_drawn(task: str) -> str:
    """Returns why attempts at a task cannot be drawn afterwards; empty if they can."""
    if not is_gymnasium(envs.task(task).name):
        return ""
    return (
        f"{task}: an environment of gymnasium keeps no states to draw from; "
        "python -m experiments.evaluate draws the returns of its attempts"
    )


def write_attempts(path: Path, rollouts: dict[str, np.ndarray], numbers: Sequence[int]) -> None:
    """Draws attempts one after another, with all tasks beside each other.

    Args:
        path: of an .mp4 or a .gif.
        rollouts: arrays as `agentic_transformer.evaluation.stored_rollouts` describes them.
        numbers: which attempts to show, in this order, counted from 1.

    Raises:
        RuntimeError: this machine cannot render such bodies.
        OSError: the file cannot be written whole.
    """
    frames = list(_frames(rollouts, numbers))
    if path.suffix == ".gif":
        # One palette without dithering: equal areas stay equal, which GIF compresses.
        images = [Image.fromarray(frame) for frame in frames]
        palette = images[0].quantize(64, Image.Quantize.FASTOCTREE)
        first, *others = (
            image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images
        )
        # Pillow joins pictures that are the same, so that a pause costs nothing.
        speed = {"duration": round(1000 / FRAMES_PER_SECOND), "loop": 0}
        first.save(path, save_all=True, append_images=others, **speed)
    else:
        with _unwarned_forks():
            write_frames(path, np.stack(frames), fps=FRAMES_PER_SECOND)


@contextmanager
def _unwarned_forks() -> Iterator[None]:
    """Silences jax, which warns of any fork: the child becomes a program of its own at once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        yield


def _frames(rollouts: dict[str, np.ndarray], numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Yields pictures (height, width, 3) of the attempts with these numbers."""
    physics, reward = rollouts["physics"], rollouts["reward"]
    panel, width = _from_above(rollouts) if "tenth" in rollouts else _rendered(rollouts)
    tasks = range(len(physics))
    font = ImageFont.load_default(size=16)
    last = physics.shape[2] - 1
    steps = np.unique(np.linspace(0, last, min(last + 1, LONGEST)).astype(int)).tolist()
    for number in numbers:
        for step in steps:
            frame = Image.new("RGB", (width * len(tasks), HEADER + PANEL), "white")
            draw = ImageDraw.Draw(frame)
            for task in tasks:
                so_far = physics[task, number - 1, : step + 1]
                frame.paste(panel(so_far, task), (task * width, HEADER))
                earned = return_text(reward[task, number - 1, :step].sum())
                words = f"attempt {number}: return {earned}"
                draw.text((task * width + 8, 7), words, _INK, font)
            for _ in range(PAUSE if step == last else 1):
                yield np.asarray(frame)


def _from_above(rollouts: dict[str, np.ndarray]) -> tuple[Panel, int]:
    """Returns what draws tasks of the plane, and the width of its pictures."""
    limit = plane_limit(rollouts["physics"][..., :2], rollouts["goal"], rollouts["radius"])
    size = PANEL * _FINE

    def pixels(x: float, y: float) -> tuple[float, float]:
        return (x / limit + 1) * size / 2, (1 - y / limit) * size / 2

    def box(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
        return [pixels(x - width, y + height), pixels(x + width, y - height)]

    def draw(states: np.ndarray, task: int) -> Image.Image:
        image = Image.new("RGB", (size, size), "white")
        ink = ImageDraw.Draw(image)
        goal, radius, tenth = (rollouts[name] for name in ("goal", "radius", "tenth"))
        ink.ellipse(box(*goal[task], tenth, tenth), outline=_GOAL, width=_FINE)
        ink.ellipse(box(*goal[task], radius, radius), fill=_GOAL)
        for wall in rollouts["walls"]:
            ink.rectangle(box(0, 0, *wall), fill=_WALL)
        ink.line([pixels(*state[:2]) for state in states], _PATH, width=2 * _FINE)
        x, y = pixels(*states[-1, :2])
        ink.ellipse([x - 5 * _FINE, y - 5 * _FINE, x + 5 * _FINE, y + 5 * _FINE], fill=_PATH)
        ink.rectangle([0, 0, size - 1, size - 1], outline=_WALL, width=_FINE)
        return image.resize((PANEL, PANEL), Image.Resampling.LANCZOS)

    return draw, PANEL


def _rendered(rollouts: dict[str, np.ndarray]) -> tuple[Panel, int]:
    """Returns what lets MuJoCo draw a body, and the width of its pictures."""
    width = PANEL * 4 // 3

    def draw(states: np.ndarray, task: int) -> Image.Image:
        name = str(rollouts["task_id"][task])
        with _unwarned_forks():
            return Image.fromarray(envs.render(name, states[-1:], height=PANEL, width=width)[0])

    return draw, width
