"""Jaco: the arm reaches one of four corners of the table (URLB), on dm_control's manipulation reach
with a fixed site.

As in ExoRL's data the target is not observed: 42 numbers, where URLB's own environment has 55.
"""

from __future__ import annotations

import numpy as np
from dm_control import composer, manipulation
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, Reading, Readings
from envs.headless import mujoco

_ARM = 6  # joints; the hand's follow
_RADIUS = 0.05
_TIME_LIMIT = 10
_OFFSET = 0.09
_HEIGHT = 0.001
_MODES = ("reach_top_left", "reach_top_right", "reach_bottom_left", "reach_bottom_right")
_PINCH = "jaco_arm/jaco_hand/pinchsite"


def _build(mode: str) -> composer.Environment:
    task = manipulation.load("reach_site_features").task
    return composer.Environment(
        task, _TIME_LIMIT, recompile_mjcf_every_episode=False
    )  # the model never changes: quicker resets


def _symlog(value: np.ndarray) -> np.ndarray:
    return np.sign(value) * np.log1p(np.abs(value))


def _observe(readings: Readings) -> np.ndarray:
    arm, hand = np.split(readings["qpos"], [_ARM], axis=1)
    angles = np.stack([np.sin(arm), np.cos(arm)], axis=2).reshape(len(arm), -1)
    torque = readings["torque"][:, 2::3]  # the joints turn about their z axes
    arm_velocity, hand_velocity = np.split(readings["qvel"], [_ARM], axis=1)
    pinch = (readings["pinch"], readings["pinch_frame"])
    return np.concatenate(
        [angles, _symlog(torque), arm_velocity, hand, hand_velocity, *pinch], axis=1
    )


def _distance(readings: Readings, mode: str) -> np.ndarray:
    """From the pinch site to the target of `mode`, (states,), metres."""
    x = -_OFFSET if mode.endswith("left") else _OFFSET
    y = _OFFSET if "top" in mode else -_OFFSET
    return np.linalg.norm(readings["pinch"] - (x, y, _HEIGHT), axis=1)


def _reach(mode: str) -> object:
    return lambda readings: tolerance(_distance(readings, mode), (0, _RADIUS), _RADIUS)


def _approach(mode: str) -> object:
    return lambda readings: -_distance(readings, mode)


DOMAIN = Domain(
    build=_build,
    observe=_observe,
    rewards={mode: _reach(mode) for mode in _MODES},
    guides={mode: _approach(mode) for mode in _MODES},
    readings={
        "torque": Reading("sensordata"),
        "pinch": Reading("site_xpos", _PINCH),
        "pinch_frame": Reading("site_xmat", _PINCH),
    },
    reward_readings=("pinch",),
    slow=True,
    stages=(mujoco.mj_kinematics,),
)
