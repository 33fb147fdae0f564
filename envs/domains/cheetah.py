"""Defines cheetah: run (dm_control), run_backward, flip and flip_backward (URLB)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dm_control import suite

from envs.domain import Domain, Readings
from envs.domains import planar

_SPEED = 10.0  # metres a second that earn the full reward


def _observe(readings: Readings) -> np.ndarray:
    # Without the horizontal position, on which nothing depends.
    return np.concatenate([readings["qpos"][:, 1:], readings["qvel"]], axis=1)


def _run(direction: int) -> Callable[[Readings], np.ndarray]:
    return lambda readings: planar.linear(direction * planar.speed(readings), _SPEED, _SPEED, 0)


DOMAIN = Domain(
    build=lambda behaviour: suite.load("cheetah", "run"),
    observe=_observe,
    rewards={
        "run": _run(+1),
        "run_backward": _run(-1),
        "flip": lambda readings: planar.spin(readings, +1),
        "flip_backward": lambda readings: planar.spin(readings, -1),
    },
    readings={"velocity": planar.VELOCITY, "angular_momentum": planar.ANGULAR_MOMENTUM},
    reward_readings=("velocity", "angular_momentum"),
    stages=planar.STAGES,
)
