"""Defines hopper: stand and hop (dm_control), hop_backward, flip and flip_backward (URLB)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, Reading, Readings
from envs.domains import planar

_Reward = Callable[[Readings], np.ndarray]
_STAND_HEIGHT = 0.6  # metres of the torso above the foot
_HOP_SPEED = 2.0  # metres a second


def _build(behaviour: str) -> Environment:
    # URLB's tasks start as dm_control's stand does.
    return suite.load("hopper", "hop" if behaviour == "hop" else "stand")


def _observe(readings: Readings) -> np.ndarray:
    # Touch forces range over orders of magnitude, so dm_control observes log(1 + force).
    touch = np.log1p(np.concatenate([readings["toe"], readings["heel"]], axis=1))
    return np.concatenate([readings["qpos"][:, 1:], readings["qvel"], touch], axis=1)


def _height(readings: Readings) -> np.ndarray:
    return readings["torso"][:, 2] - readings["foot"][:, 2]


def _standing(readings: Readings) -> np.ndarray:
    return tolerance(_height(readings), (_STAND_HEIGHT, 2))


def _stand(readings: Readings) -> np.ndarray:
    small_control = tolerance(readings["ctrl"], margin=1, value_at_margin=0, sigmoid="quadratic")
    # Controls cost a fifth of the reward at most.
    return _standing(readings) * (small_control.mean(axis=1) + 4) / 5


def _hop(direction: int) -> _Reward:
    def reward(readings: Readings) -> np.ndarray:
        speed = direction * planar.speed(readings)
        return _standing(readings) * planar.linear(speed, _HOP_SPEED, _HOP_SPEED / 2, 0.5)

    return reward


def _flip(direction: int) -> _Reward:
    return lambda readings: _standing(readings) * planar.spin(readings, direction)


def _rising(readings: Readings) -> np.ndarray:
    """Grows with the height, where `_standing` is still 0: (states,) in [0, 1]."""
    return tolerance(_height(readings), (1.2 * _STAND_HEIGHT, 2), 2, "linear", 0)


def _shaped(reward: _Reward) -> _Reward:
    return lambda readings: _rising(readings) + 2 * reward(readings)


_REWARDS = {
    "stand": _stand,
    "hop": _hop(+1),
    "hop_backward": _hop(-1),
    "flip": _flip(+1),
    "flip_backward": _flip(-1),
}
DOMAIN = Domain(
    build=_build,
    observe=_observe,
    rewards=_REWARDS,
    # Every reward is 0 until the hopper stands, so a planner first follows its height.
    shaped_rewards={name: _shaped(reward) for name, reward in _REWARDS.items()},
    readings={
        "torso": Reading("xipos", "torso"),
        "foot": Reading("xipos", "foot"),
        "velocity": planar.VELOCITY,
        "angular_momentum": planar.ANGULAR_MOMENTUM,
        "toe": Reading("sensordata", "touch_toe"),
        "heel": Reading("sensordata", "touch_heel"),
    },
    reward_readings=("torso", "foot", "velocity", "angular_momentum"),
    stages=planar.STAGES,
)
