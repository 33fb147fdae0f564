"""Defines jaco: an arm that reaches for a corner of the table (URLB), or for a hidden goal on it.

It is dm_control's manipulation reach with a fixed target. As in ExoRL's data the target is not
observed: an observation has 42 numbers, where URLB's own environment has 55.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from dm_control import composer, manipulation
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, FamilyReward, Reading, Readings
from envs.headless import mujoco

ARM_JOINTS = 6  # the hand's joints follow
_RADIUS = 0.05  # metres around the target that earn the full reward
_TIME_LIMIT = 10  # seconds
_OFFSET = 0.09  # metres of a corner from the table's axes
_HEIGHT = 0.001  # metres of the target above the table
CORNERS = {
    "reach_top_left": (-_OFFSET, _OFFSET),
    "reach_top_right": (_OFFSET, _OFFSET),
    "reach_bottom_left": (-_OFFSET, -_OFFSET),
    "reach_bottom_right": (_OFFSET, -_OFFSET),
}
PINCH = "jaco_arm/jaco_hand/pinchsite"


def _build(behaviour: str) -> composer.Environment:
    task = manipulation.load("reach_site_features").task
    # The model never changes, and resets are quicker without compiling it.
    return composer.Environment(task, _TIME_LIMIT, recompile_mjcf_every_episode=False)


def _symlog(value: np.ndarray) -> np.ndarray:
    # sign(x) log(1 + |x|), as dm_control observes torques
    return np.sign(value) * np.log1p(np.abs(value))


def _observe(readings: Readings) -> np.ndarray:
    arm, hand = np.split(readings["qpos"], [ARM_JOINTS], axis=1)
    angles = np.stack([np.sin(arm), np.cos(arm)], axis=2).reshape(len(arm), -1)
    torque = readings["torque"][:, 2::3]  # the joints turn about their z axes
    arm_velocity, hand_velocity = np.split(readings["qvel"], [ARM_JOINTS], axis=1)
    pinch = (readings["pinch"], readings["pinch_frame"])
    parts = [angles, _symlog(torque), arm_velocity, hand, hand_velocity, *pinch]
    return np.concatenate(parts, axis=1)


def _distance(pinch: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Returns the distance (...) from pinch sites (..., 3) to goals (..., 2) on the table."""
    goal = np.asarray(goal)
    height = np.full((*goal.shape[:-1], 1), _HEIGHT)
    return np.linalg.norm(pinch - np.concatenate([goal, height], axis=-1), axis=-1)


def _reach(pinch: np.ndarray, goal: np.ndarray) -> np.ndarray:
    return tolerance(_distance(pinch, goal), (0, _RADIUS), _RADIUS)


def _approach(readings: Readings, goal: np.ndarray) -> np.ndarray:
    # A few radii away from the target the reward is nearly 0 and flat.
    return -_distance(readings["pinch"], goal)


DOMAIN = Domain(
    build=_build,
    observe=_observe,
    rewards={
        name: lambda readings, goal=goal: _reach(readings["pinch"], goal)
        for name, goal in CORNERS.items()
    },
    shaped_rewards={name: partial(_approach, goal=goal) for name, goal in CORNERS.items()},
    families={"goal": FamilyReward(lambda readings: readings["pinch"], _reach, _approach)},
    readings={
        "torque": Reading("sensordata"),
        "pinch": Reading("site_xpos", PINCH),
        "pinch_frame": Reading("site_xmat", PINCH),
    },
    reward_readings=("pinch",),
    use_threads=True,
    stages=(mujoco.mj_kinematics,),
)
