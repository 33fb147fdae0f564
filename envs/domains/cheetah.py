"""Defines cheetah: run (dm_control), run_backward, flip, flip_backward (URLB), a hidden speed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dm_control import suite

from envs.domain import Domain, FamilyReward, Readings
from envs.domains import planar

_SPEED = 10.0  # metres a second that earn the full reward


def _observe(readings: Readings) -> np.ndarray:
    # Without the horizontal position, on which nothing depends.
    return np.concatenate([readings["qpos"][:, 1:], readings["qvel"]], axis=1)


def _run(direction: int) -> Callable[[Readings], np.ndarray]:
    return lambda readings: planar.linear(direction * planar.speed(readings), _SPEED, _SPEED, 0)


_FARTHEST = 3.0  # metres a second off the hidden speed: what is farther off scores the same
_LEVEL = 0.4  # radians of pitch from which on the planner's score falls


def _score_speed(readings: Readings, speed: np.ndarray) -> np.ndarray:
    # -min(|v - v*|, 3) - max(|pitch| - 0.4, 0) / 2 - |a|^2 / 10: far from the hidden speed the
    # reward is flat, and plans that roll over or thrash should not be imitated.
    off = np.minimum(np.abs(planar.speed(readings) - speed), _FARTHEST)
    pitch = np.maximum(np.abs(readings["qpos"][:, 2]) - _LEVEL, 0)
    return -off - pitch / 2 - (readings["ctrl"] ** 2).sum(axis=1) / 10


DOMAIN = Domain(
    build=lambda behaviour: suite.load("cheetah", "run"),
    observe=_observe,
    rewards={
        "run": _run(+1),
        "run_backward": _run(-1),
        "flip": lambda readings: planar.spin(readings, +1),
        "flip_backward": lambda readings: planar.spin(readings, -1),
    },
    families={
        "speed": FamilyReward(
            measure=lambda readings: readings["velocity"][:, :1],
            reward=lambda measured, speed: planar.at_speed(measured[..., 0], speed),
            score=_score_speed,
            learning=lambda measured, speed: planar.toward_speed(measured[..., 0], speed),
        )
    },
    readings={"velocity": planar.VELOCITY, "angular_momentum": planar.ANGULAR_MOMENTUM},
    reward_readings=("velocity", "angular_momentum"),
    stages=planar.STAGES,
)
