"""Defines walker: stand, walk, run (dm_control), flip (URLB) and a hidden speed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, FamilyReward, Reading, Readings
from envs.domains import planar

_STAND_HEIGHT = 1.2  # metres of the torso above the ground
_SPEEDS = {"walk": 1.0, "run": 8.0}  # metres a second
_FARTHEST = 3.0  # metres a second off a hidden speed: the planner's score is 0 from here on
_FOR_STANDING = 0.2  # share of the learner's reward that standing earns at any speed


def _build(behaviour: str) -> Environment:
    # URLB's flip starts as dm_control's stand does.
    return suite.load("walker", behaviour if behaviour in _SPEEDS else "stand")


def _observe(readings: Readings) -> np.ndarray:
    states = len(readings["xmat"])
    matrices = readings["xmat"].reshape(states, -1, 9)
    # xx and xz determine a planar body's rotation; body 0 is the world.
    orientations = matrices[:, 1:, [0, 2]].reshape(states, -1)
    height = readings["torso"][:, 2:]
    return np.concatenate([orientations, height, readings["qvel"]], axis=1)


def _stand(readings: Readings) -> np.ndarray:
    standing = tolerance(readings["torso"][:, 2], (_STAND_HEIGHT, float("inf")), _STAND_HEIGHT / 2)
    upright = (1 + readings["torso_frame"][:, 8]) / 2  # zz of its rotation matrix
    return (3 * standing + upright) / 4


def _stand_and(readings: Readings, reward: np.ndarray) -> np.ndarray:
    # Standing alone earns a sixth, and falling lowers both parts.
    return _stand(readings) * (5 * reward + 1) / 6


def _forward(target: float) -> Callable[[Readings], np.ndarray]:
    """Rewards moving forward at `target` metres a second."""

    def reward(readings: Readings) -> np.ndarray:
        moving = planar.linear(planar.speed(readings), target, target / 2, 0.5)
        return _stand_and(readings, moving)

    return reward


def _measure_speed(readings: Readings) -> np.ndarray:
    return np.stack([planar.speed(readings), _stand(readings)], axis=1)


def _reward_speed(measured: np.ndarray, speed: np.ndarray) -> np.ndarray:
    # Falling lowers all of it.
    return measured[..., 1] * planar.at_speed(measured[..., 0], speed)


def _score_speed(readings: Readings, speed: np.ndarray) -> np.ndarray:
    off = np.minimum(np.abs(planar.speed(readings) - speed), _FARTHEST)
    return _stand(readings) * (1 - off / _FARTHEST)


def _learn_speed(measured: np.ndarray, speed: np.ndarray) -> np.ndarray:
    # stand (0.2 + 0.4 r(margin 0.5) + 0.4 r(margin 2)): a fallen walker first learns to stand.
    moving = planar.toward_speed(measured[..., 0], speed)
    return measured[..., 1] * (_FOR_STANDING + (1 - _FOR_STANDING) * moving)


DOMAIN = Domain(
    build=_build,
    observe=_observe,
    rewards={
        "stand": _stand,
        "walk": _forward(_SPEEDS["walk"]),
        "run": _forward(_SPEEDS["run"]),
        "flip": lambda readings: _stand_and(readings, planar.spin(readings, +1)),
    },
    families={"speed": FamilyReward(_measure_speed, _reward_speed, _score_speed, _learn_speed)},
    readings={
        "xmat": Reading("xmat"),
        "torso": Reading("xpos", "torso"),
        "torso_frame": Reading("xmat", "torso"),
        "velocity": planar.VELOCITY,
        "angular_momentum": planar.ANGULAR_MOMENTUM,
    },
    reward_readings=("torso", "torso_frame", "velocity", "angular_momentum"),
    use_threads=True,
    stages=planar.STAGES,
)
