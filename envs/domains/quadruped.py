"""Defines quadruped: walk and run (dm_control), stand, jump, roll and roll_fast (URLB).

Its hidden speed is forward, of the torso.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dm_control import suite

from envs.domain import Domain, FamilyReward, Reading, Readings
from envs.domains.planar import at_speed, linear
from envs.headless import mujoco

# Numbers of the free joint in qpos (a position and a quaternion) and in qvel.
_ROOT_POSITION, _ROOT_VELOCITY = 7, 6
_UPRIGHT = 8  # index of zz in a flattened rotation matrix: 1 for an upright torso
_TOES = ("front_left", "front_right", "back_right", "back_left")  # dm_control's order of sensors
_FORCES = tuple(f"{kind}_toe_{toe}" for kind in ("force", "torque") for toe in _TOES)


def _observe(readings: Readings) -> np.ndarray:
    return np.concatenate(
        [
            readings["qpos"][:, _ROOT_POSITION:],
            readings["qvel"][:, _ROOT_VELOCITY:],
            readings["act"],
            readings["velocity"],
            readings["torso_frame"][:, _UPRIGHT:],
            readings["imu_accel"],
            readings["imu_gyro"],
            # Forces and torques range over orders of magnitude.
            *(np.arcsinh(readings[sensor]) for sensor in _FORCES),
        ],
        axis=1,
    )


def _upright(readings: Readings) -> np.ndarray:
    return linear(readings["torso_frame"][:, _UPRIGHT], 1, 2, 0)


def _move(target: float) -> Callable[[Readings], np.ndarray]:
    """Rewards walking forward at `target` metres a second."""

    def reward(readings: Readings) -> np.ndarray:
        return _upright(readings) * linear(readings["velocity"][:, 0], target, target, 0.5)

    return reward


def _jump(readings: Readings) -> np.ndarray:
    return _upright(readings) * linear(readings["centre_of_mass"][:, 2], 1, 1, 0.5)


def _roll(target: float) -> Callable[[Readings], np.ndarray]:
    """Rewards moving in any direction at `target` metres a second."""

    def reward(readings: Readings) -> np.ndarray:
        speed = np.linalg.norm(readings["velocity"], axis=1)
        return _upright(readings) * linear(speed, target, target, 0.5)

    return reward


def _measure_speed(readings: Readings) -> np.ndarray:
    return np.stack([readings["velocity"][:, 0], _upright(readings)], axis=1)


def _reward_speed(measured: np.ndarray, speed: np.ndarray) -> np.ndarray:
    return measured[..., 1] * at_speed(measured[..., 0], speed)


def _score_speed(readings: Readings, speed: np.ndarray) -> np.ndarray:
    return _upright(readings) - np.abs(readings["velocity"][:, 0] - speed)


DOMAIN = Domain(
    build=lambda behaviour: suite.load("quadruped", "run" if behaviour == "run" else "walk"),
    observe=_observe,
    rewards={
        "walk": _move(0.5),
        "run": _move(5.0),
        "stand": _upright,
        "jump": _jump,
        "roll": _roll(0.5),
        "roll_fast": _roll(5.0),
    },
    families={"speed": FamilyReward(_measure_speed, _reward_speed, _score_speed)},
    readings={
        "torso_frame": Reading("xmat", "torso"),
        "velocity": Reading("sensordata", "velocimeter"),
        "centre_of_mass": Reading("sensordata", "center_of_mass"),
        **{sensor: Reading("sensordata", sensor) for sensor in ("imu_accel", "imu_gyro", *_FORCES)},
    },
    reward_readings=("torso_frame", "velocity", "centre_of_mass"),
    use_threads=True,
    stages=(
        mujoco.mj_kinematics,
        mujoco.mj_comPos,
        mujoco.mj_comVel,
        mujoco.mj_sensorPos,
        mujoco.mj_sensorVel,
    ),
)
