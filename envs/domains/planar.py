"""What walker, cheetah and hopper share: planar bodies whose torso's subtree moves and turns."""

from __future__ import annotations

import numpy as np

from envs.domain import Reading, Readings
from envs.headless import mujoco

SPEED = Reading("subtree_linvel", "torso")  # what the sensor of this name in the models reads
ANGULAR_MOMENTUM = Reading("subtree_angmom", "torso")
STAGES = (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_comVel, mujoco.mj_subtreeVel)

_SPIN = 5.0  # angular momentum about y that earns a flip's full reward (URLB)


def speed(readings: Readings) -> np.ndarray:
    """Horizontal velocity of the centre of mass, (states,), metres a second."""
    return readings["speed"][:, 0]


def linear(value: np.ndarray, target: float, margin: float, at_margin: float) -> np.ndarray:
    """dm_control's tolerance with bounds (target, inf) and a linear fall over `margin` to
    `at_margin`.

    To the last bit, in a quarter of the time, which counts where a step takes microseconds.
    """
    return np.clip(1 - (target - value) / margin * (1 - at_margin), 0, 1)


def spin(readings: Readings, direction: int) -> np.ndarray:
    """How fast the body turns about y in `direction` (+1 or -1), (states,) in [0, 1] (URLB's flip
    tasks).
    """
    return linear(direction * readings["angular_momentum"][:, 1], _SPIN, _SPIN, 0)
