"""Pictures of stored physics, where the machine can draw; elsewhere one clear line."""

import numpy as np
import pytest

import envs


def test_video(tmp_path):
    """Frames show the goal and the motion; a video is written."""
    goal = envs.task("point_mass_goal", goal=(0.1, 0.1))
    states = np.array([[0.0, 0, 0, 0], [-0.2, -0.2, 0, 0]])
    try:
        frames = envs.render(goal, states, height=64, width=64)
    except RuntimeError as error:
        assert str(error).startswith("cannot render with MUJOCO_GL=")
        assert "\n" not in str(error)
        pytest.skip(str(error))
    assert frames.shape == (2, 64, 64, 3)
    assert np.abs(frames[0].astype(int) - frames[1]).max() > 50
    elsewhere = envs.render(envs.task("point_mass_goal", goal=(-0.1, 0.1)), states[:1], height=64, width=64)
    assert np.abs(frames[0].astype(int) - elsewhere[0]).max() > 20
    assert envs.write_video(tmp_path / "film.gif", goal, states).stat().st_size > 0


def test_no_renderer(monkeypatch):
    """A machine without GL is told so in one line, and `render_mode` is refused before anything is built."""
    monkeypatch.setattr("envs.rendering.RENDERERS", ("nonsense",))
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(RuntimeError, match="cannot render with MUJOCO_GL=nonsense: .+"):
        envs.render("cartpole_swingup", np.zeros((1, 4)))
    with pytest.raises(ValueError, match="needs MUJOCO_GL=egl or osmesa or glfw"):
        envs.make("cartpole_swingup", render_mode="rgb_array")
