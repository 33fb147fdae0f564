"""Hopper: stand and hop (dm_control), hop_backward, flip and flip_backward (URLB)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dm_control import suite
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, Reading, Readings
from envs.domains import planar

_STAND_HEIGHT = 0.6
_HOP_SPEED = 2.0


def _build(mode: str) -> object:
    return suite.load("hopper", "hop" if mode == "hop" else "stand")


def _observe(readings: Readings) -> np.ndarray:
    touch = np.log1p(np.concatenate([readings["toe"], readings["heel"]], axis=1))
    return np.concatenate([readings["qpos"][:, 1:], readings["qvel"], touch], axis=1)


def _standing(readings: Readings) -> np.ndarray:
    return tolerance(readings["torso"][:, 2] - readings["foot"][:, 2], (_STAND_HEIGHT, 2))


def _stand(readings: Readings) -> np.ndarray:
    small_control = tolerance(
        readings["ctrl"], margin=1, value_at_margin=0, sigmoid="quadratic"
    ).mean(axis=1)
    return _standing(readings) * (small_control + 4) / 5


def _hop(direction: int) -> object:
    def reward(readings: Readings) -> np.ndarray:
        return _standing(readings) * planar.linear(
            direction * planar.speed(readings), _HOP_SPEED, _HOP_SPEED / 2, 0.5
        )

    return reward


def _flip(direction: int) -> object:
    return lambda readings: _standing(readings) * planar.spin(readings, direction)


def _rising(readings: Readings) -> np.ndarray:
    """A slope up to `_standing`, (states,) in [0, 1]."""
    return tolerance(
        readings["torso"][:, 2] - readings["foot"][:, 2], (1.2 * _STAND_HEIGHT, 2), 2, "linear", 0
    )


def _rising_then(reward: Callable[[Readings], np.ndarray]) -> Callable[[Readings], np.ndarray]:
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
    guides={mode: _rising_then(reward) for mode, reward in _REWARDS.items()},
    readings={
        "torso": Reading("xipos", "torso"),
        "foot": Reading("xipos", "foot"),
        "speed": planar.SPEED,
        "angular_momentum": planar.ANGULAR_MOMENTUM,
        "toe": Reading("sensordata", "touch_toe"),
        "heel": Reading("sensordata", "touch_heel"),
    },
    reward_readings=("torso", "foot", "speed", "angular_momentum"),
    stages=planar.STAGES,
)
