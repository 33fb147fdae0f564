"""Collects data with a sampling-based planner, which reaches good returns without learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import envs
from envs import Task
from envs.mppi import MPPI, MPPIConfig

# Found by trying a handful of values each; experiments/results/data holds the returns they reach.
CONFIGS = {
    "cartpole": MPPIConfig(samples=32, knots=12, hold=10, noise=0.8, timestep_scale=2),
    "cheetah": MPPIConfig(samples=64, knots=8, hold=6, noise=1.0, timestep_scale=2),
    "walker": MPPIConfig(samples=16, knots=8, hold=3, noise=1.0, timestep_scale=5),
    "quadruped": MPPIConfig(samples=16, knots=6, hold=3, timestep_scale=2),
    "hopper": MPPIConfig(samples=64, knots=10, hold=4, noise=1.0, timestep_scale=4),
    "point_mass_maze": MPPIConfig(samples=16, knots=5, hold=10, noise=1.0, timestep_scale=2),
    "jaco": MPPIConfig(samples=16, knots=6, hold=4, timestep_scale=4),
}
_EFFORTS = (1.0, 0.5, 0.25)  # share of the samples, drawn for each batch
_NOISES = (0.0, 0.1, 0.3, 1.0)  # standard deviation of noise on actions, drawn for each episode
_NOISE_SHARES = (0.5, 0.2, 0.2, 0.1)
_GIVE_UP_SHARE = 0.2  # of the episodes, which act at random from some step on


class MPPICollector:
    """Plans for each episode's own task; the quality differs by batch and by episode."""

    batch = 10

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """Returns the planner's settings, and by how much episodes depart from its plans."""
        # The keys are those of buffers on disk.
        return asdict(CONFIGS[domain]) | {
            "effort": _EFFORTS,
            "shake": _NOISES,
            "shake_shares": _NOISE_SHARES,
            "idle": _GIVE_UP_SHARE,
        }

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """Draws the effort of the batch, and the noise of each episode."""
        config = CONFIGS[tasks[0].domain]
        samples = max(4, int(config.samples * rng.choice(_EFFORTS)))
        self._planner = MPPI(tasks, replace(config, samples=samples), rng)
        self._hold, self._next_plan, self._rng = config.hold, 0, rng
        self._noise = rng.choice(_NOISES, (len(tasks), 1), p=_NOISE_SHARES)
        length = envs.spec(tasks[0]).length
        gives_up = rng.random(len(tasks)) < _GIVE_UP_SHARE
        last_step = np.where(gives_up, rng.integers(length, size=len(tasks)), length)
        self._random_from = last_step[:, None]
        self._action = np.zeros(())

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `datasets.collectors.Collector.act`."""
        if step >= self._next_plan:
            self._action = self._planner.plan(physics)
            self._next_plan = step + self._hold
        noise = self._rng.standard_normal(self._action.shape)
        noisy = self._action + self._noise * noise
        return np.clip(np.where(step < self._random_from, noisy, noise), -1, 1)
