"""Simulates a batch of MuJoCo states of one domain: starts, steps and reads them.

Every state has an MjData of its own, stepped in dm_control's order: finish the step, further
substeps, refresh positions and velocities (Tassa et al. 2020, arXiv 2006.12983, page 6). So the
solver's warm start and the last sensor readings, which a stored row lacks, stay where they are, and
positions are computed once a step. `mujoco.rollout` steps a batch too, but does not hand back the
warm start, without which paths drift from dm_control's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from envs.domain import load_domain
from envs.episode_start import episode_starter
from envs.headless import mujoco
from envs.readings import ReadingLayout
from envs.scattered_array import ScatteredArray

_STATES_PER_THREAD = 8
# Everything that MuJoCo's next step depends on: time, physics, warm start, controls and so on.
# Sensor readings of forces are no part of it, as a step only writes them.
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_DIVERGED = [int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{of}")) for of in ("QPOS", "QVEL", "QACC")]


class Batch:
    """Holds states of one domain that step together.

    Attributes:
        model: the compiled model that all states share.
        substeps: physics steps of an environment step.
    """

    def __init__(self, domain: str, behaviours: Sequence[str]) -> None:
        """Makes room for one state for each of `behaviours`; `start` fills it."""
        self._domain, self._behaviours = domain, list(behaviours)
        starter = episode_starter(domain, behaviours[0])
        self.model, self.substeps = starter.model, starter.substeps
        self._datas = [mujoco.MjData(self.model) for _ in behaviours]
        self._layout = ReadingLayout(self.model, self._datas[0], load_domain(domain).readings)
        self._state = ScatteredArray([self._layout.views(data) for data in self._datas])
        self._control = ScatteredArray([[data.ctrl] for data in self._datas])
        self._table = self._state.read()  # (states, numbers of a row of the layout)
        self._low, self._high = self.model.actuator_ctrlrange.T
        self._unit_range = bool(np.all(self._low == -1) and np.all(self._high == 1))
        threads = _thread_count(len(behaviours)) if load_domain(domain).use_threads else 1
        self._shares = [self._datas[thread::threads] for thread in range(threads)]
        self._pool, self._pool_process = None, 0

    def __getstate__(self) -> dict[str, Any]:
        """Returns what determines all later states, so that a copy takes the original's path."""
        states = np.empty((len(self), mujoco.mj_stateSize(self.model, _STATE)))
        for state, data in zip(states, self._datas, strict=True):
            mujoco.mj_getState(self.model, data, state, _STATE)
        return {
            "built": (self._domain, self._behaviours),
            "states": states,
            # Observations show the readings of the last step, which the state does not determine.
            "sensors": np.array([data.sensordata for data in self._datas]),
            # `check` reports at the end of an episode whatever happened before the copy was made.
            "warnings": np.array([data.warning.number for data in self._datas]),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Builds a batch on the models of this process and brings it to where the original was."""
        self.__init__(*state["built"])
        saved = zip(state["states"], state["sensors"], state["warnings"], strict=True)
        for data, (numbers, sensors, warnings) in zip(self._datas, saved, strict=True):
            mujoco.mj_setState(self.model, data, numbers, _STATE)
            # The next step starts with `mj_step2`, which needs what `mj_step1` computes.
            mujoco.mj_step1(self.model, data)
            data.sensordata[:] = sensors
            data.warning.number[:] = warnings
        self._table = self._state.read()

    def __len__(self) -> int:
        """Returns the number of states."""
        return len(self._datas)

    @property
    def physics(self) -> np.ndarray:
        """Returns qpos, qvel and act of every state, (states, physics size) float64."""
        return self._table[:, : self._layout.physics_size]

    @property
    def readings(self) -> dict[str, np.ndarray]:
        """Returns the domain's readings of every state, name -> (states, size)."""
        return self._layout.by_name(self._table)

    def start(
        self,
        behaviours: Sequence[str],
        randoms: Sequence[np.random.RandomState],
        chosen: np.ndarray,
    ) -> None:
        """Starts an episode in each chosen state.

        Args:
            behaviours: what each state's episode starts as.
            randoms: the source of each state's start; those of chosen states advance.
            chosen: (states,) bool; the other states stay where they are.
        """
        for index in np.flatnonzero(chosen):
            starter = episode_starter(self._domain, behaviours[index])
            starter.start(randoms[index], self._datas[index])
        self._table = self._state.read()

    def step(self, action: np.ndarray) -> None:
        """Holds `action`, (states, action size) in [-1, 1], for one environment step."""
        # Not scaled where that would change nothing, since scaling could round.
        control = action if self._unit_range else self._scaled(action)
        self._control.write(control)
        if len(self._shares) > 1:
            if self._pool_process != os.getpid():  # in a fork the threads of its parent are gone
                self._pool, self._pool_process = ThreadPoolExecutor(len(self._shares)), os.getpid()
            list(self._pool.map(self._advance, self._shares))
        else:
            self._advance(self._datas)
        self._table = self._state.read()

    def check(self, chosen: np.ndarray) -> None:
        """Checks that no chosen simulation has diverged: MuJoCo resets such a one silently.

        Args:
            chosen: (states,) bool.

        Raises:
            FloatingPointError: some have diverged; the error names the states.
        """
        indices = np.flatnonzero(chosen).tolist()
        diverged = [i for i in indices if self._datas[i].warning.number[_DIVERGED].any()]
        if diverged:
            raise FloatingPointError(
                f"{self._domain}: the simulation of states {diverged} diverged"
            )

    def close(self) -> None:
        """Ends the threads.

        MuJoCo's memory is freed with the batch, at once, as there are no reference cycles.
        """
        if self._pool:
            self._pool.shutdown()

    def _scaled(self, action: np.ndarray) -> np.ndarray:
        return self._low + (action + 1) * (self._high - self._low) / 2

    def _advance(self, datas: Sequence[mujoco.MjData]) -> None:
        """Steps some states, whose controls are set, by one environment step.

        `mj_step1` computes positions and velocities, and `mj_step2` forces and the next state;
        `mj_step` is both. So a step that starts with `mj_step2` and ends with `mj_step1` leaves
        positions, velocities and their sensors fresh for the observation, and computes them once.
        """
        model = self.model
        step, step1, step2 = mujoco.mj_step, mujoco.mj_step1, mujoco.mj_step2
        if not load_domain(self._domain).readings:
            # Only joints are read, and each `mj_step` computes all the rest anew.
            for data in datas:
                step(model, data, self.substeps)
        elif self.substeps == 1:
            for data in datas:
                step2(model, data)
                step1(model, data)
        else:
            for data in datas:
                step2(model, data)
                step(model, data, self.substeps - 1)
                step1(model, data)


def _thread_count(states: int) -> int:
    return max(1, min(os.cpu_count() or 1, states // _STATES_PER_THREAD))
