"""Model predictive sampling as a collector: good behaviour for every task of every domain, without
learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import envs
from envs import Task
from envs.planner import Planner, Settings

# Found by trying a handful of values each; experiments/results/data holds the returns they reach.
SETTINGS = {
    "cartpole": Settings(samples=32, knots=12, hold=10, noise=0.8, coarse=2),
    "cheetah": Settings(samples=64, knots=8, hold=6, noise=1.0, coarse=2),
    "walker": Settings(samples=16, knots=8, hold=3, noise=1.0, coarse=5),
    "quadruped": Settings(samples=16, knots=6, hold=3, coarse=2),
    "hopper": Settings(samples=64, knots=10, hold=4, noise=1.0, coarse=4),
    "point_mass_maze": Settings(samples=16, knots=5, hold=10, noise=1.0, coarse=2),
    "jaco": Settings(samples=16, knots=6, hold=4, coarse=4),
}
_EFFORT = (1.0, 0.5, 0.25)  # share of the samples, by batch
_SHAKE = (0.0, 0.1, 0.3, 1.0)  # standard deviation of noise on the actions, by episode
_SHAKE_SHARES = (0.5, 0.2, 0.2, 0.1)
_IDLE = 0.2  # share of the episodes whose plan is swapped for noise from some step on


class Planned:
    """Plans for each episode's own task; how well differs by batch and by episode."""

    batch = 10

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """See `datasets.collectors.Collector`."""
        varied = {"effort": _EFFORT, "shake": _SHAKE, "shake_shares": _SHAKE_SHARES, "idle": _IDLE}
        return asdict(SETTINGS[domain]) | varied

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """See `datasets.collectors.Collector`."""
        settings = SETTINGS[tasks[0].domain]
        effort = rng.choice(_EFFORT)
        self._planner = Planner(
            tasks, replace(settings, samples=max(4, int(settings.samples * effort))), rng
        )
        self._hold, self._due, self._rng = settings.hold, 0, rng
        self._shake = rng.choice(_SHAKE, (len(tasks), 1), p=_SHAKE_SHARES)
        length = envs.spec(tasks[0]).length
        self._gives_up = np.where(
            rng.random(len(tasks)) < _IDLE, rng.integers(length, size=len(tasks)), length
        )[:, None]
        self._action = np.zeros(())

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `datasets.collectors.Collector`."""
        if step >= self._due:
            self._action = self._planner.plan(physics)
            self._due = step + self._hold
        noise = self._rng.standard_normal(self._action.shape)
        action = np.where(step < self._gives_up, self._action + self._shake * noise, noise)
        return np.clip(action, -1, 1)
