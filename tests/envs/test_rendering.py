"""Stored physics is drawn where the machine can draw; elsewhere one line says why not."""

import os
import signal

import gymnasium
import numpy as np
import pytest

import envs
from envs import rendering

GOAL = envs.task("point_mass_goal", goal=(0.1, 0.1))
STATES = np.array([[0.0, 0, 0, 0], [-0.2, -0.2, 0, 0]])


@pytest.fixture(scope="module")
def can_draw():
    """Skips where this machine cannot draw, after checking that the error is one line."""
    try:
        envs.render("cartpole_swingup", np.zeros((1, 4)), height=8, width=8)
    except RuntimeError as error:
        assert str(error).startswith("cannot render with MUJOCO_GL=")
        assert "\n" not in str(error)
        pytest.skip(str(error))


def test_video(can_draw, tmp_path):
    """Frames show the goal and the motion; a video is written."""
    frames = envs.render(GOAL, STATES, height=64, width=64)
    assert frames.shape == (2, 64, 64, 3)
    assert np.abs(frames[0].astype(int) - frames[1]).max() > 50
    elsewhere = envs.render(
        envs.task("point_mass_goal", goal=(-0.1, 0.1)), STATES[:1], height=64, width=64
    )
    assert np.abs(frames[0].astype(int) - elsewhere[0]).max() > 20
    assert envs.write_video(tmp_path / "film.gif", GOAL, STATES).stat().st_size > 0


@pytest.mark.parametrize(("height", "width"), [(960, 1280), (720, 64), (31, 1001), (1, 1)])
def test_pictures_of_any_size(can_draw, height, width):
    """More pixels of the same scene, also beyond MuJoCo's default of 640 x 480."""
    frame = envs.render(GOAL, STATES[1:], height=height, width=width)[0]
    assert frame.shape == (height, width, 3)
    if (height, width) == (960, 1280):
        small = envs.render(GOAL, STATES[1:], height=240, width=320)[0]
        shrunk = frame.reshape(240, 4, 320, 4, 3).mean((1, 3))
        assert (np.abs(shrunk - small).max(axis=2) > 32).mean() < 0.05  # edges are smoother


@pytest.mark.parametrize("size", [{"height": 0}, {"width": -3}, {"height": 2.0}, {"width": "64"}])
def test_no_size_of_a_picture(size):
    name = next(iter(size))
    with pytest.raises(ValueError, match=f"{name}=.* must be a whole number of pixels, at least 1"):
        envs.render(GOAL, STATES, **size)


@pytest.mark.parametrize("fps", [0, -1, float("nan")])
def test_no_speed_of_a_video(fps, tmp_path):
    with pytest.raises(ValueError, match="fps=.* must be above 0"):
        envs.write_video(tmp_path / "film.gif", GOAL, STATES, fps=fps)


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_no_states_of_a_video(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: there are no states to draw"):
        envs.write_video(tmp_path / name, GOAL, STATES[:0])


def test_more_pixels_than_the_library_has_room_for(can_draw):
    """One line names the size; the next picture is drawn."""
    with pytest.raises(RuntimeError, match="8 x 1000000 pixels: .+") as raised:
        envs.render(GOAL, STATES, height=8, width=1_000_000)
    assert "\n" not in str(raised.value)
    assert envs.render(GOAL, STATES, height=8, width=8).any()


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        (np.zeros((1, 18)), r"of shape \(frames, 4\), got \(1, 18\)"),
        (np.zeros(4), r"of shape \(frames, 4\), got \(4,\)"),
        (np.full((1, 4), np.nan), "must be finite"),
    ],
)
def test_no_state_of_this_body(physics, message):
    with pytest.raises(ValueError, match=message):
        envs.render(GOAL, physics)


def test_bodies_and_goals_in_turn(can_draw):
    """A picture does not depend on earlier pictures of other bodies, goals and sizes."""
    size = {"height": 48, "width": 64}
    arm = envs.render("jaco_reach_top_left", np.zeros((1, 18)), **size)
    without = envs.render("point_mass_goal", STATES, **size)
    assert not np.array_equal(envs.render(GOAL, STATES, **size), without)
    np.testing.assert_array_equal(envs.render("point_mass_goal", STATES, **size), without)
    np.testing.assert_array_equal(
        envs.render("jaco_reach_top_left", np.zeros((1, 18)), **size), arm
    )
    assert envs.render(GOAL, np.zeros((0, 4)), **size).shape == (0, 48, 64, 3)


@pytest.mark.parametrize(
    ("family", "corner", "place"),
    [
        ("point_mass_goal", None, None),
        ("point_mass_maze_goal", "point_mass_maze_reach_top_left", (-0.15, 0.15)),
        ("jaco_goal", "jaco_reach_top_left", (-0.09, 0.09)),
    ],
)
def test_the_goal_is_drawn_where_it_is(can_draw, family, corner, place):
    """The camera looks from above or from the front; of a hidden goal nothing is shown."""
    _, info = envs.make(family, seed=0).reset(seed=0)

    def draw(task):
        return envs.render(task, info["physics"][None])[0].astype(int)

    def middle(goal):
        """The place in the picture, downwards and to the right, where it differs."""
        shown = draw(envs.task(family, goal=goal))
        return np.argwhere(np.abs(shown - hidden).max(axis=2) > 50).mean(axis=0)

    hidden = draw(family)
    below, right = middle((0.1, -0.1)) - middle((-0.1, 0.1))
    assert below > 20 and right > 20  # pixels of 240 x 320
    if corner:
        np.testing.assert_array_equal(draw(corner), draw(envs.task(family, goal=place)))


def test_a_process_that_draws_may_be_killed(can_draw):
    """The picture in progress is an error of one line; the next starts another process."""
    before = envs.render(GOAL, STATES, height=8, width=8)
    process = rendering._renderer(os.getpid(), rendering._backend())._process
    process.send_signal(signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended with code -9"):
        envs.render(GOAL, STATES, height=8, width=8)
    np.testing.assert_array_equal(envs.render(GOAL, STATES, height=8, width=8), before)


def test_a_process_that_does_not_answer_is_given_up(can_draw, monkeypatch):
    monkeypatch.setattr(rendering, "_TIMEOUT", 0.01)
    with pytest.raises(RuntimeError, match="no answer in 0.01 s"):
        envs.render(GOAL, STATES, height=2000, width=2000)


def test_environments_draw_where_they_are(can_draw):
    """The picture shows the physics that `reset` and `step` returned, for one and for many."""
    one = envs.make("walker_walk", render_mode="rgb_array")
    _, info = one.reset(seed=0)
    np.testing.assert_array_equal(
        one.render(), envs.render("walker_walk", info["physics"][None])[0]
    )
    many = envs.make_vec("point_mass_goal", 2, render_mode="rgb_array")
    many.reset(seed=0)
    physics = many.step(np.ones((2, 2)))[4]["physics"]
    frames = many.render()
    assert isinstance(frames, tuple)
    for frame, task, state in zip(frames, many.tasks, physics, strict=True):
        np.testing.assert_array_equal(frame, envs.render(task, state[None])[0])


@pytest.mark.parametrize("make", [envs.make, envs.make_vec])
def test_wrong_renders_of_environments(make):
    """The errors are those of gymnasium's own environments."""
    with pytest.raises(
        ValueError, match="render_mode='human' is unknown; allowed: None, 'rgb_array'"
    ):
        make("cartpole_swingup", render_mode="human")
    with pytest.raises(ValueError, match="render_mode='rgb' is unknown"):
        make("gymnasium:Pendulum-v1", render_mode="rgb")
    env = make("cartpole_swingup", render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset before render"):
        env.render()
    env.reset()
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="make another"):
        env.render()
    blind = make("cartpole_swingup")
    blind.reset()
    with pytest.warns(UserWarning, match="without render_mode='rgb_array'"):
        assert blind.render() is None
