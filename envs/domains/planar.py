"""Computes what walker, cheetah and hopper share: how fast a planar body moves and turns."""

from __future__ import annotations

import numpy as np

from envs.domain import Reading, Readings
from envs.headless import mujoco

# Of the torso and all that hangs on it, which is the whole body.
VELOCITY = Reading("subtree_linvel", "torso")
ANGULAR_MOMENTUM = Reading("subtree_angmom", "torso")
STAGES = (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel, mujoco.mj_subtreeVel)

# Metres a second around a hidden speed that earn the full reward, and over which it falls to 0.
_SPEED_RADIUS, _SPEED_MARGIN = 0.25, 0.5
_FAR_MARGIN = 2.0  # the margin of a learner's reward, which has a slope far from the speed too
_SPIN = 5.0  # angular momentum about y that earns a flip's full reward (URLB)


def speed(readings: Readings) -> np.ndarray:
    """Returns the horizontal velocity of the centre of mass, (states,), in metres a second."""
    return readings["velocity"][:, 0]


def linear(value: np.ndarray, target: float, margin: float, at_margin: float) -> np.ndarray:
    """Computes dm_control's `tolerance` with bounds (target, inf) and a linear sigmoid.

    It is 1 from `target` on, and falls to `at_margin` over `margin`. It equals `tolerance` to the
    last bit and takes a quarter of its time, which counts where a step takes microseconds.
    """
    # 1 - (1 - v) (target - x) / margin, where v is the value at the margin
    return np.clip(1 - (target - value) / margin * (1 - at_margin), 0, 1)


def at_speed(value: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Returns the reward of a velocity (...) for a hidden speed (...), both in metres a second.

        clip(1 - (|value - speed| - 0.25) / 0.5, 0, 1)

    It is dm_control's `tolerance` with bounds speed -+ 0.25, margin 0.5, a linear sigmoid and value
    0 at the margin, for speeds that differ.
    """
    return _within_margin(value, speed, _SPEED_MARGIN)


def toward_speed(value: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Returns a reward for learners, of the same shapes, with a slope where `at_speed` is flat.

    It is the mean of `at_speed` and of the same with a margin of 2 instead of 0.5.
    """
    return (at_speed(value, speed) + _within_margin(value, speed, _FAR_MARGIN)) / 2


def _within_margin(value: np.ndarray, speed: np.ndarray, margin: float) -> np.ndarray:
    return np.clip(1 - (np.abs(value - speed) - _SPEED_RADIUS) / margin, 0, 1)


def spin(readings: Readings, direction: int) -> np.ndarray:
    """Returns the reward for turning about y, (states,) in [0, 1] (URLB's flip tasks).

    Args:
        readings: with the angular momentum.
        direction: +1 or -1.
    """
    return linear(direction * readings["angular_momentum"][:, 1], _SPIN, _SPIN, 0)
