"""Collects data of the jaco arm by moving its hand straight to the place to reach.

Nothing is learned, and rewards play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs import Task
from envs.domains.jaco import ARM_JOINTS, CORNERS, PINCH
from envs.episode_start import episode_starter
from envs.headless import mujoco

_GAIN = 4.0  # 1/s: wanted speed of the hand over its distance from the place
_FASTEST = 1.0  # m/s, of the hand
_DAMPING = 0.1  # metres: keeps joints slow where the hand hardly moves with them
_HEIGHT = 0.02  # metres above the table to which the hand moves, within the goal's full reward
_NOISE = (0.0, 0.1, 0.3)
_NOISE_SHARES = (0.5, 0.3, 0.2)


class HandCollector:
    """Moves the hand with damped least squares; the noise is drawn for each episode.

    The arm's motors take joint velocities q'. Those that move the hand with velocity v are

        q' = J^T (J J^T + damping^2 I)^-1 v,   v = gain (place - hand),

    where J holds the derivatives of the hand's position by the joints (Wampler 1986).
    """

    batch, one_task = 100, False

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the controller's settings and its noise."""
        return {
            "gain": _GAIN,
            "fastest": _FASTEST,
            "damping": _DAMPING,
            "height": _HEIGHT,
            "noise": _NOISE,
            "noise_shares": _NOISE_SHARES,
        }

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Draws the noise of each episode."""
        goals = [task.params.get("goal") or CORNERS[task.behaviour] for task in tasks]
        self._places = np.column_stack([goals, np.full(len(tasks), _HEIGHT)])
        self._noise = rng.choice(_NOISE, (len(tasks), 1), p=_NOISE_SHARES)
        self._rng = rng
        self._model = episode_starter(tasks[0].domain, tasks[0].behaviour).model
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(PINCH).id
        self.demonstrator = np.zeros((len(tasks), self._model.nu))

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `datasets.collectors.Collector.act`."""
        pairs = zip(physics, self._places, strict=True)
        self.demonstrator = np.stack([self._toward(place, state) for state, place in pairs])
        noise = self._noise * self._rng.standard_normal(self.demonstrator.shape)
        return np.clip(self.demonstrator + noise, -1, 1)

    def _toward(self, place: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Returns the action of one episode, (action size,); fingers do not move."""
        model, data = self._model, self._data
        data.qpos[:] = state[: model.nq]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)  # mj_jacSite reads what it computes
        by_joints = np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, by_joints, None, self._site)
        by_joints = by_joints[:, :ARM_JOINTS]
        velocity = _GAIN * (place - data.site_xpos[self._site])
        velocity /= max(1.0, float(np.linalg.norm(velocity)) / _FASTEST)
        damped = by_joints @ by_joints.T + _DAMPING**2 * np.eye(3)
        action = np.zeros(model.nu)
        action[:ARM_JOINTS] = by_joints.T @ np.linalg.solve(damped, velocity)
        action /= model.actuator_ctrlrange[:, 1]  # the joint velocities at action 1
        return action / max(1.0, float(np.abs(action).max()))
