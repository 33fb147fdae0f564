"""Plans by model predictive path integral control, MPPI (Williams et al. 2017, arXiv 1707.02342).

MPPI needs no learning: from each state it rolls out noisy copies of a plan in MuJoCo, scores them
with the task's reward, and moves the plan toward the good ones. Plans are piecewise constant, and a
new plan starts from the last one, shifted.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from envs.domain import load_domain
from envs.episode_start import episode_starter
from envs.headless import mujoco
from envs.readings import readings_of
from envs.registry import Task
from envs.rewards import family_reward, reward_function, stack_params

_SMALLEST_SPREAD = 1e-9  # keeps scores that are all equal from a division by zero


@dataclass(frozen=True)
class MPPIConfig:
    """Sets how thoroughly plans are searched.

    Attributes:
        samples: rollouts of each state at every plan.
        hold: environment steps of a piece of a plan, and between two plans.
        knots: pieces of a plan.
        noise: standard deviation of the samples' actions around the plan.
        temperature: in standard deviations of the samples' scores; lower follows the best more
            closely.
        timestep_scale: how many times longer the planner's physics steps are than the
            environment's. It divides the environment's physics steps of a piece.
    """

    samples: int = 32
    hold: int = 3
    knots: int = 8
    noise: float = 0.5
    temperature: float = 0.1
    timestep_scale: int = 1


def fit_action_repeat(config: MPPIConfig, domain: str, action_repeat: int) -> MPPIConfig:
    """Returns settings for a planner whose actions are held for several environment steps.

    A piece then lasts whole actions, at least one: as many as come nearest to `hold`. Plans get
    more or fewer pieces, so that they look about as far ahead as before. `timestep_scale` becomes
    smaller where it no longer divides a piece.

    Args:
        config: settings for any environment of the domain.
        domain: the body that is simulated.
        action_repeat: environment steps for which each action is held.
    """
    hold = action_repeat * max(1, math.ceil(config.hold / action_repeat - 0.5))
    steps = episode_starter(domain, load_domain(domain).any_behaviour).substeps * hold
    scales = [scale for scale in range(1, config.timestep_scale + 1) if steps % scale == 0]
    knots = max(1, round(config.knots * config.hold / hold))
    return replace(config, hold=hold, knots=knots, timestep_scale=scales[-1])


class MPPI:
    """Plans for a fixed number of episodes side by side.

    Attributes:
        config: the settings.
    """

    def __init__(self, tasks: Sequence[Task], config: MPPIConfig, rng: np.random.Generator) -> None:
        """Starts with plans of zeros, one for each of `tasks`.

        Args:
            tasks: of one domain, none of them a family.
            config: the settings.
            rng: the source of the samples' noise.

        Raises:
            ValueError: `timestep_scale` does not divide a piece.
        """
        self._tasks, self._domain = list(tasks), tasks[0].domain
        self.config, self._rng = config, rng
        self._behaviours = np.array([task.behaviour for task in tasks])
        starter = episode_starter(self._domain, tasks[0].behaviour)
        self._model = copy.copy(starter.model)
        self._model.opt.timestep *= config.timestep_scale
        # Physics steps of a piece of the plan.
        self._substeps, rest = divmod(starter.substeps * config.hold, config.timestep_scale)
        if rest:
            raise ValueError(
                f"timestep_scale={config.timestep_scale} does not divide the "
                f"{starter.substeps * config.hold} physics steps of {self._domain} in a piece of "
                f"hold={config.hold}; allowed: a divisor"
            )
        threads = os.cpu_count() or 1
        self._pool = mujoco.rollout.Rollout(nthread=threads)
        self._datas = [mujoco.MjData(self._model) for _ in range(threads)]
        low, high = self._model.actuator_ctrlrange.T
        self._middle, self._half = (high + low) / 2, (high - low) / 2
        self._plan = np.zeros((len(tasks), config.knots, self._model.nu))

    def __getstate__(self) -> dict[str, Any]:
        """Returns what determines later plans; each copy has its own threads and MuJoCo memory."""
        return {"made_of": (self._tasks, self.config, self._rng), "plan": self._plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Builds a planner and lets it go on from where the original was."""
        self.__init__(*state["made_of"])
        self._plan = state["plan"]

    def __copy__(self) -> MPPI:
        """Copies deeply: a copy must not share the random generator."""
        return copy.deepcopy(self)

    def plan(self, physics: np.ndarray) -> np.ndarray:
        """Plans from the current states.

        Args:
            physics: (episodes, physics size), the current states.

        Returns:
            (episodes, action size): actions to hold for `hold` environment steps, after which the
            next plan is due.
        """
        config, episodes = self.config, len(physics)
        # The first piece of the last plan is over; the last piece is repeated.
        self._plan = np.concatenate([self._plan[:, 1:], self._plan[:, -1:]], axis=1)
        shape = (episodes, config.samples, *self._plan.shape[1:])
        noise = self._rng.standard_normal(shape) * config.noise
        noise[:, 0] = 0  # the plan itself stays a candidate
        candidates = np.clip(self._plan[:, None] + noise, -1, 1)
        scores = self._scores(physics, candidates)
        # The new plan is the mean of the candidates u_i, weighted by their scores S_i:
        # w_i = exp((S_i - max S) / (temperature * std S)), plan = sum_i w_i u_i / sum_i w_i
        scale = config.temperature * (scores.std(axis=1, keepdims=True) + _SMALLEST_SPREAD)
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / scale)
        weights /= weights.sum(axis=1, keepdims=True)
        self._plan = np.einsum("es,eska->eka", weights, candidates)
        return self._plan[:, 0]

    def _scores(self, physics: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Rolls out candidates, (episodes, samples, knots, action size), and scores them.

        Returns:
            (episodes, samples), the mean score of the states at the ends of the pieces.
        """
        episodes, samples, knots, size = candidates.shape
        rollouts, physics_size = episodes * samples, physics.shape[1]
        control = self._middle + self._half * candidates
        control = np.repeat(control, self._substeps, axis=2).reshape(rollouts, -1, size)
        initial = np.zeros((rollouts, 1 + physics_size))  # time, then physics
        initial[:, 1:] = np.repeat(physics, samples, axis=0)
        states, _ = self._pool.rollout(self._model, self._datas, initial, control)
        states = states[:, self._substeps - 1 :: self._substeps, 1:]  # (rollouts, knots, physics)
        states = states.reshape(episodes, -1, physics_size)  # (episodes, samples * knots, physics)
        actions = candidates.reshape(episodes, -1, size)
        scores = np.empty((episodes, samples))
        for behaviour in np.unique(self._behaviours):
            own = np.flatnonzero(self._behaviours == behaviour)
            readings = readings_of(self._domain, states[own].reshape(-1, physics_size))
            params = {  # of each state
                key: np.repeat(value, samples * knots, axis=0)
                for key, value in stack_params([self._tasks[index] for index in own]).items()
            }
            given = {**readings, "ctrl": actions[own].reshape(-1, size)}
            value = _score_function(self._tasks[own[0]])(given, **params)
            scores[own] = value.reshape(-1, samples, knots).mean(axis=2)
        return scores


def _score_function(task: Task) -> Callable[..., np.ndarray]:
    """Returns the function of readings and parameters that scores states."""
    family = family_reward(task)
    shaped = (
        load_domain(task.domain).shaped_rewards.get(task.behaviour)
        if family is None
        else family.score
    )
    return shaped or reward_function(task)
