"""Moving pictures of attempts, from stored rollouts."""

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from experiments.reports.pictures import picture
from experiments.reports.video import HEADER, PANEL, PAUSE, write_attempts


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
    assert not picture(path, lambda path: write_attempts(path, drawn, [1, 2]))
    assert not path.exists()
