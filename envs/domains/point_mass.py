"""Defines the point mass with a hidden goal, on dm_control's point_mass (easy).

The goal lies on a ring around the start and is never observed; only rewards tell where it is. An
environment step is 15 control steps, so that 12 environment steps suffice to reach it.
"""

from __future__ import annotations

import numpy as np
from dm_control import suite
from dm_control.rl.control import Environment
from dm_control.suite import point_mass
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, FamilyReward, Readings
from envs.family_table import GOAL_RADIUS

_START = 0.01  # metres around the centre within which episodes start


class _FromCentre(point_mass.PointMass):
    """Starts at rest, uniformly on a small disc."""

    def initialize_episode(self, physics: point_mass.Physics) -> None:
        # The square root makes a uniform draw of the radius uniform over the area.
        radius, angle = _START * np.sqrt(self.random.uniform()), self.random.uniform(-np.pi, np.pi)
        physics.data.qpos[:] = radius * np.cos(angle), radius * np.sin(angle)


def _build(behaviour: str) -> Environment:
    return Environment(suite.load("point_mass", "easy").physics, _FromCentre(randomize_gains=False))


def observe(readings: Readings) -> np.ndarray:
    """Returns position and velocity, (states, 4)."""
    return np.concatenate([readings["qpos"], readings["qvel"]], axis=1)


def _reward(position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(position - goal, axis=-1)
    return tolerance(distance, (0, GOAL_RADIUS), GOAL_RADIUS)


DOMAIN = Domain(
    build=_build,
    observe=observe,
    families={"goal": FamilyReward(lambda readings: readings["qpos"], _reward)},
    control_steps=15,
    use_threads=True,
)
