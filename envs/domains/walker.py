"""Walker: stand, walk, run (dm_control) and flip (URLB)."""

from __future__ import annotations

import numpy as np
from dm_control import suite
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, Reading, Readings
from envs.domains import planar

_STAND_HEIGHT = 1.2
_SPEEDS = {"walk": 1.0, "run": 8.0}


def _build(mode: str) -> object:
    return suite.load("walker", mode if mode in _SPEEDS else "stand")


def _observe(readings: Readings) -> np.ndarray:
    orientations = readings["xmat"].reshape(len(readings["xmat"]), -1, 9)[
        :, 1:, [0, 2]
    ]  # xx and xz of all bodies but the world
    return np.concatenate(
        [orientations.reshape(len(orientations), -1), readings["torso"][:, 2:], readings["qvel"]],
        axis=1,
    )


def _stand(readings: Readings) -> np.ndarray:
    standing = tolerance(readings["torso"][:, 2], (_STAND_HEIGHT, float("inf")), _STAND_HEIGHT / 2)
    upright = (1 + readings["torso_frame"][:, 8]) / 2
    return (3 * standing + upright) / 4


def _moving(readings: Readings, how: np.ndarray) -> np.ndarray:
    return _stand(readings) * (5 * how + 1) / 6


def _forward(target: float) -> object:
    return lambda readings: _moving(
        readings, planar.linear(planar.speed(readings), target, target / 2, 0.5)
    )


DOMAIN = Domain(
    build=_build,
    observe=_observe,
    rewards={
        "stand": _stand,
        "walk": _forward(_SPEEDS["walk"]),
        "run": _forward(_SPEEDS["run"]),
        "flip": lambda readings: _moving(readings, planar.spin(readings, +1)),
    },
    readings={
        "xmat": Reading("xmat"),
        "torso": Reading("xpos", "torso"),
        "torso_frame": Reading("xmat", "torso"),
        "speed": planar.SPEED,
        "angular_momentum": planar.ANGULAR_MOMENTUM,
    },
    reward_readings=("torso", "torso_frame", "speed", "angular_momentum"),
    slow=True,
    stages=planar.STAGES,
)
