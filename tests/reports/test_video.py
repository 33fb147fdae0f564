"""Moving pictures of attempts, from stored rollouts."""

import imageio.v3 as imageio
import numpy as np
import pytest
from matplotlib.patches import Circle
from PIL import Image, ImageDraw

from experiments.reports.attempts_figure import attempts
from experiments.reports.pictures import drawing_failure
from experiments.reports.video import HEADER, PANEL, PAUSE, write_attempts

COLOURS = {"path": "#0b5fa5", "goal": "#8fc04e", "wall": "#b8b0a4", "paper": "#ffffff"}


def rollouts(tasks, attempts, steps):
    """Points that walk to the right, on a plane with a goal and a wall."""
    physics = np.zeros((tasks, attempts, steps + 1, 4))
    physics[..., 0] = np.linspace(0, 0.1, steps + 1)
    return {
        "physics": physics,
        "reward": np.ones((tasks, attempts, steps)),
        "task_id": np.array(["point_mass_goal(goal=0.100000,0.000000)"] * tasks),
        "goal": np.full((tasks, 2), 0.1),
        "radius": np.array(0.03),
        "tenth": np.array(0.06),
        "walls": np.array([[0.01, 0.1]]),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "frames"), [(5, 6), (100, 48)])
def test_each_attempt_that_is_asked_for_is_drawn_and_ends_with_a_pause(tmp_path, steps, frames):
    path = tmp_path / "attempts.gif"
    write_attempts(path, rollouts(tasks=2, attempts=3, steps=steps), [1, 2])
    with Image.open(path) as film:
        assert film.size == (2 * PANEL, HEADER + PANEL)
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
    # A pause is one picture that lasts.
    assert len(durations) == 2 * frames
    assert durations[frames - 1] == durations[-1] == PAUSE * durations[0]


def test_a_video_that_a_full_disk_cut_off_is_an_error(tmp_path, monkeypatch):
    """As ffmpeg ends without one."""
    write = imageio.imwrite

    def cut_off(path, *arguments, **options):
        write(path, *arguments, **options)
        path.write_bytes(path.read_bytes()[:4096])

    monkeypatch.setattr(imageio, "imwrite", cut_off)
    path = tmp_path / "attempts.mp4"
    drawn = rollouts(tasks=2, attempts=3, steps=4)
    assert drawing_failure(path, lambda path: write_attempts(path, drawn, [1, 2]))
    assert not path.exists()


def colour_at(picture, place, limit, task):
    """The name of the colour at a place (x, y) of a task's panel, in metres."""
    x, y = place
    column = task * PANEL + round((x / limit + 1) / 2 * (PANEL - 1))
    row = HEADER + round((1 - y / limit) / 2 * (PANEL - 1))
    found = np.array(picture.convert("RGB").getpixel((column, row)))
    named = {
        name: np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for name, c in COLOURS.items()
    }
    return min(named, key=lambda name: np.abs(named[name] - found).sum())


def test_each_panel_shows_its_own_task_and_attempt(tmp_path, monkeypatch):
    """The second attempts: one point walks up, the other to the left; the first ones stand still.

    A goal of its own is in each panel, in one place beyond all that a point reached.
    """
    shown = rollouts(tasks=2, attempts=2, steps=5)
    shown["physics"][...] = 0
    shown["physics"][0, 1, :, 1] = np.linspace(0, 0.1, 6)
    shown["physics"][1, 1, :, 0] = np.linspace(0, -0.1, 6)
    shown["goal"] = np.array([[0.25, 0.0], [0.0, -0.15]])
    shown["walls"] = np.array([[0.02, 0.05]])
    shown["reward"] = np.arange(20.0).reshape(2, 2, 5)
    words, write = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest: (
            words.append((place[0], text)) or write(self, place, text, *rest)
        ),
    )
    write_attempts(tmp_path / "attempts.gif", shown, [1, 2])
    limit = 0.25 + 0.03
    with Image.open(tmp_path / "attempts.gif") as film:
        film.seek(film.n_frames - 1)
        picture = film.convert("RGB")
    places = {
        (0.0, 0.1): "path paper",
        (-0.1, 0.0): "paper path",
        (0.25, 0.0): "goal paper",
        (0.0, -0.15): "paper goal",
        (0.015, -0.045): "wall wall",
        (0.1, 0.0): "paper paper",
    }
    for place, colours in places.items():
        found = [colour_at(picture, place, limit, task) for task in range(2)]
        assert " ".join(found) == colours, place
    # Before each step, what the steps before it earned: 0, 0, 0 + 1, ..., 0 + 1 + 2 + 3 + 4.
    for (number, task), first in {(1, 0): 0, (1, 1): 10, (2, 0): 5, (2, 1): 15}.items():
        earned = [sum(range(first, first + step)) for step in range(6)]
        expected = [f"attempt {number}: return {value}" for value in earned]
        found = [
            text for x, text in words if x // PANEL == task and text.startswith(f"attempt {number}")
        ]
        assert found == expected


def test_all_tasks_and_all_attempts_that_are_asked_for_are_drawn(tmp_path, monkeypatch):
    """Also five tasks, and numbers that are no powers of two."""
    words, write = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest: words.append(text) or write(self, place, text, *rest),
    )
    path = tmp_path / "attempts.gif"
    write_attempts(path, rollouts(tasks=5, attempts=6, steps=2), [1, 3, 5])
    with Image.open(path) as film:
        assert film.size == (5 * PANEL, HEADER + PANEL)
    shown = [text.split(":")[0] for text in words]
    assert list(dict.fromkeys(shown)) == ["attempt 1", "attempt 3", "attempt 5"]
    assert shown.count("attempt 3") == 5 * 3  # in each panel, before each step and at the end


def test_a_picture_shows_goals_that_nobody_came_near(tmp_path, drawn):
    """As of tasks beyond those of training, which an agent may not look for there."""
    shown = rollouts(tasks=2, attempts=1, steps=3)
    shown["goal"] = np.array([[0.25, 0.0], [0.0, -0.15]])
    np.savez(tmp_path / "rollouts.npz", **shown)
    attempts(tmp_path / "rollouts.npz", "", True, [1], tmp_path / "attempts.png")
    for axis, goal in zip(drawn[0].axes, shown["goal"], strict=True):
        (disc,) = [one for one in axis.patches if isinstance(one, Circle) and one.get_fill()]
        assert disc.center == tuple(goal)
        for low, high in (axis.get_xlim(), axis.get_ylim()):
            assert low <= min(goal) - disc.radius and max(goal) + disc.radius <= high
