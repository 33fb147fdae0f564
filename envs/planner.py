"""Model predictive path integral control (Williams et al. 2017, arXiv 1707.02342) of a batch of
states, by sampling on MuJoCo.

It needs no learning: from each state it rolls out noisy copies of a plan, scores them with the
task's reward, and moves the plan toward the good ones. Plans are piecewise constant, and a new plan
starts from the last one, shifted.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.domain import load, mode
from envs.headless import mujoco
from envs.physics import readings_of, start_of
from envs.registry import Task


@dataclass(frozen=True)
class Settings:
    """How hard a domain is planned for.

    Attributes:
        samples: rollouts of each state at every plan.
        knots: pieces of a plan.
        hold: agent steps of a piece; also between two plans.
        noise: standard deviation of the samples' actions around the plan.
        temperature: in standard deviations of the samples' scores; lower follows the best more
            closely.
        coarse: the planner's physics steps are this many times longer than the environment's.
    """

    samples: int = 32
    knots: int = 8
    hold: int = 3
    noise: float = 0.5
    temperature: float = 0.1
    coarse: int = 1


class Planner:
    """Plans for a fixed number of episodes side by side."""

    def __init__(self, tasks: Sequence[Task], settings: Settings, rng: np.random.Generator) -> None:
        """One plan for each of `tasks`, which share a domain; none of them a family."""
        self._tasks, self._domain = list(tasks), tasks[0].domain
        self.settings, self._rng = settings, rng
        self._modes = np.array([mode(task.name, self._domain) for task in tasks])
        start = start_of(self._domain, str(self._modes[0]))
        self._model = copy.copy(start.model)
        self._model.opt.timestep *= settings.coarse
        self._substeps = start.substeps * settings.hold // settings.coarse  # of a piece
        self._guides, self._rewards = load(self._domain).guides, load(self._domain).rewards
        threads = os.cpu_count() or 1
        self._pool = mujoco.rollout.Rollout(nthread=threads)
        self._datas = [mujoco.MjData(self._model) for _ in range(threads)]
        low, self._high = self._model.actuator_ctrlrange.T
        self._middle, self._half = (self._high + low) / 2, (self._high - low) / 2
        self._plan = np.zeros((len(tasks), settings.knots, self._model.nu))

    def __getstate__(self) -> dict[str, Any]:
        """What determines later plans; threads and MuJoCo's memory are each planner's own."""
        return {"made_of": (self._tasks, self.settings, self._rng), "plan": self._plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build a planner and let it go on from where the original was."""
        self.__init__(*state["made_of"])
        self._plan = state["plan"]

    def __copy__(self) -> Planner:
        """Copies share nothing that a plan changes, the random generator included."""
        return copy.deepcopy(self)

    def plan(self, physics: np.ndarray) -> np.ndarray:
        """Plan anew.

        Args:
            physics: (episodes, physics size), where they are.

        Returns:
            (episodes, action size): to be held for `hold` agent steps, after which it is time for
            the next plan.
        """
        settings, episodes = self.settings, len(physics)
        self._plan = np.concatenate([self._plan[:, 1:], self._plan[:, -1:]], axis=1)
        noise = (
            self._rng.standard_normal((episodes, settings.samples, *self._plan.shape[1:]))
            * settings.noise
        )
        noise[:, 0] = 0  # the plan itself stays a candidate
        candidates = np.clip(self._plan[:, None] + noise, -1, 1)
        scores = self._scores(physics, candidates)
        spread = scores.std(axis=1, keepdims=True) + 1e-9
        weights = np.exp(
            (scores - scores.max(axis=1, keepdims=True)) / (settings.temperature * spread)
        )
        weights /= weights.sum(axis=1, keepdims=True)
        self._plan = np.einsum("es,eska->eka", weights, candidates)
        return self._plan[:, 0]

    def _scores(self, physics: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Mean score along each candidate, (episodes, samples)."""
        episodes, samples, knots, size = candidates.shape
        held = np.repeat(self._middle + self._half * candidates, self._substeps, axis=2)
        initial = np.zeros((episodes * samples, 1 + physics.shape[1]))  # time, then physics
        initial[:, 1:] = np.repeat(physics, samples, axis=0)
        states, _ = self._pool.rollout(
            self._model, self._datas, initial, held.reshape(episodes * samples, -1, size)
        )
        states = states[:, self._substeps - 1 :: self._substeps, 1:].reshape(
            episodes, -1, physics.shape[1]
        )
        control = candidates.reshape(episodes, -1, size)
        scores = np.empty((episodes, samples))
        for kind in np.unique(self._modes):
            own = self._modes == kind
            readings = readings_of(self._domain, states[own].reshape(-1, physics.shape[1]))
            score = self._guides.get(kind) or self._rewards[kind]
            value = score({**readings, "ctrl": control[own].reshape(-1, size)})
            scores[own] = value.reshape(-1, samples, knots).mean(axis=2)
        return scores
