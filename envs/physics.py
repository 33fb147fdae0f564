"""A batch of MuJoCo states of one domain: start, step, read. What the vector environment, the
relabeller and the planner share.

Every state has an MjData of its own, stepped in dm_control's order (finish the step, further
substeps, refresh positions and velocities; Tassa et al. 2020, arXiv 2006.12983, page 6). So warm
start and last sensor readings, which a stored row lacks, are simply kept, and positions are
computed once a step. (`mujoco.rollout` steps a batch too, but does not hand back the warm start,
without which paths drift apart.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np

from envs.domain import STATE_FIELDS, Reading, load, mode
from envs.headless import mujoco
from envs.registry import Task

_STATES_PER_THREAD = 8
_BLOCK = 4096  # states between two copies out of MuJoCo's memory
# What MuJoCo's future depends on; sensors of forces, which only a step computes, stand beside it.
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_DIVERGED = [int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{of}")) for of in ("QPOS", "QVEL", "QACC")]


class Start:
    """Starts episodes as dm_control does: through the task's own `initialize_episode`, on a random
    state per episode stream.
    """

    def __init__(self, domain: str, mode: str) -> None:
        """Build dm_control's environment for `mode`; its model is the one to step."""
        self._name = domain, mode
        self._environment = load(domain).build(mode)
        self._lock = Lock()
        steps = self._environment.control_timestep() / self._environment.physics.timestep()
        self.substeps = round(steps) * load(domain).repeat
        # Each model is one body, so that looking for islands of contact finds one, at up to a tenth
        # of the time of a step.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND

    def __reduce__(self) -> tuple:
        """Copies are the one Start of the mode in the process where they are made."""
        return start_of, self._name

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model, for reading only."""
        return self._environment.physics.model.ptr

    def episode(self, random: np.random.RandomState, into: mujoco.MjData) -> None:
        """Start an episode from `random` (which advances) and copy everything MuJoCo holds of it to
        `into`.
        """
        task = self._environment.task
        own = (
            task.random if hasattr(task, "random") else self._environment.random_state
        )  # suite task, composer environment
        with self._lock:
            own.set_state(random.get_state())
            self._environment.reset()
            random.set_state(own.get_state())
            mujoco.mj_copyData(into, self.model, self._environment.physics.data.ptr)


@lru_cache
def start_of(domain: str, mode: str) -> Start:
    """The one Start of a mode: dm_control's environments are slow to build and, full of reference
    cycles, slow to go.
    """
    return Start(domain, mode)


class Scattered:
    """Equally long rows of float64 that lie in pieces anywhere in memory, read and written as one
    array.

    One indexing of the stretch of memory that spans all pieces takes a tenth of the time of a loop
    over them; it touches nothing but the pieces.
    """

    def __init__(self, rows: Sequence[Sequence[np.ndarray]]) -> None:
        """Look up where the contiguous arrays of each row lie; it keeps them alive."""
        self._rows = rows
        places = np.array([np.concatenate([_addresses(piece) for piece in row]) for row in rows])
        self._index = (places - places.min()) // places.itemsize
        interface = {
            "data": (int(places.min()), False),
            "shape": (int(self._index.max()) + 1,),
            "typestr": "<f8",
            "version": 3,
        }
        self._memory = np.asarray(SimpleNamespace(__array_interface__=interface))

    def __reduce__(self) -> tuple:
        """Copies look up where their own pieces lie."""
        return Scattered, (self._rows,)

    def read(self) -> np.ndarray:
        """A copy of everything, (rows, columns)."""
        return self._memory[self._index]

    def write(self, values: np.ndarray) -> None:
        """Set everything to `values`, (rows, columns)."""
        self._memory[self._index] = values


def _addresses(piece: np.ndarray) -> np.ndarray:
    return piece.__array_interface__["data"][0] + np.arange(piece.size) * piece.itemsize


class Views:
    """Where `qpos`, `qvel`, `act` and then some readings lie in an MjData, and in a row of them."""

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, readings: Mapping[str, Reading]
    ) -> None:
        """Look up `readings` in a model and one of its states."""
        self._wanted = {name: Reading(name) for name in STATE_FIELDS} | dict(readings)
        self._bounds = {name: reading.bounds(model, data) for name, reading in self._wanted.items()}
        ends = np.cumsum([stop - start for start, stop in self._bounds.values()])
        starts = np.concatenate([[0], ends[:-1]])
        self._columns = {
            name: slice(int(start), int(end))
            for name, start, end in zip(self._bounds, starts, ends, strict=True)
        }
        self.size, self.physics_size = int(ends[-1]), self._columns["act"].stop

    def of(self, data: mujoco.MjData) -> list[np.ndarray]:
        """Views of all of it in one MjData, first those of `qpos`, `qvel` and `act`."""
        spans = [(self._wanted[name].field, *span) for name, span in self._bounds.items()]
        return [getattr(data, source).reshape(-1)[start:stop] for source, start, stop in spans]

    def named(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of a table of such rows, by the names of the readings."""
        return {name: table[:, columns] for name, columns in self._columns.items()}


class Batch:
    """States of one domain that step together."""

    def __init__(self, domain: str, modes: Sequence[str]) -> None:
        """Make room for one state for each of `modes`; `start` fills it."""
        self._domain, self._built_for = domain, list(modes)
        start = start_of(domain, modes[0])
        self.model, self.substeps = start.model, start.substeps
        self._datas = [mujoco.MjData(self.model) for _ in modes]
        self._views = Views(self.model, self._datas[0], load(domain).readings)
        self._state = Scattered([self._views.of(data) for data in self._datas])
        self._control = Scattered([[data.ctrl] for data in self._datas])
        self._table = self._state.read()
        self._low, self._high = self.model.actuator_ctrlrange.T
        self._unit_range = bool(np.all(self._low == -1) and np.all(self._high == 1))
        threads = (
            max(1, min(os.cpu_count() or 1, len(modes) // _STATES_PER_THREAD))
            if load(domain).slow
            else 1
        )
        self._parts = [self._datas[part::threads] for part in range(threads)]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __getstate__(self) -> dict[str, Any]:
        """What determines the future, without addresses: a copy takes the path of the original."""
        states = np.empty((len(self), mujoco.mj_stateSize(self.model, _STATE)))
        for state, data in zip(states, self._datas, strict=True):
            mujoco.mj_getState(self.model, data, state, _STATE)
        return {
            "built": (self._domain, self._built_for),
            "states": states,
            "sensors": np.array([data.sensordata for data in self._datas]),
            "warnings": np.array([data.warning.number for data in self._datas]),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build a batch on the models of this process and bring it to where the original was."""
        self.__init__(*state["built"])
        saved = zip(state["states"], state["sensors"], state["warnings"], strict=True)
        for data, (numbers, sensors, warnings) in zip(self._datas, saved, strict=True):
            mujoco.mj_setState(self.model, data, numbers, _STATE)
            mujoco.mj_step1(self.model, data)
            data.sensordata[:] = sensors
            data.warning.number[:] = warnings
        self._table = self._state.read()

    def __len__(self) -> int:
        """Number of states."""
        return len(self._datas)

    @property
    def physics(self) -> np.ndarray:
        """What a data set stores of every state: qpos, qvel, act; (states, physics size) float64."""
        return self._table[:, : self._views.physics_size]

    @property
    def readings(self) -> dict[str, np.ndarray]:
        """The domain's readings of every state."""
        return self._views.named(self._table)

    def start(
        self,
        modes: Sequence[str],
        randoms: Sequence[np.random.RandomState],
        chosen: np.ndarray,
    ) -> None:
        """Start an episode of each state's mode from its random state, which advances.

        Args:
            modes: of every state.
            randoms: of every state.
            chosen: (states,) bool; the other states stay where they are.
        """
        for index in np.flatnonzero(chosen):
            start_of(self._domain, modes[index]).episode(randoms[index], self._datas[index])
        self._table = self._state.read()

    def step(self, action: np.ndarray) -> None:
        """Hold `action` (states, action size), in [-1, 1], for one agent step."""
        self._control.write(
            action if self._unit_range else self._low + (action + 1) * (self._high - self._low) / 2
        )
        if self._pool:
            list(self._pool.map(self._advance, self._parts))
        else:
            self._advance(self._datas)
        self._table = self._state.read()

    def check(self, chosen: np.ndarray) -> None:
        """Fail if a chosen simulation has diverged, after which MuJoCo resets it in silence.

        Args:
            chosen: (states,) bool.

        Raises:
            FloatingPointError: names the states.
        """
        ended = np.flatnonzero(chosen).tolist()
        diverged = [one for one in ended if self._datas[one].warning.number[_DIVERGED].any()]
        if diverged:
            raise FloatingPointError(
                f"{self._domain}: the simulation of states {diverged} diverged"
            )

    def close(self) -> None:
        """End the threads.

        Memory goes with the batch itself, at once: nothing here refers to itself.
        """
        if self._pool:
            self._pool.shutdown()

    def _advance(self, datas: Sequence[mujoco.MjData]) -> None:
        """An agent step of some states, whose controls are set."""
        model, finish, further, refresh = (
            self.model,
            mujoco.mj_step2,
            mujoco.mj_step,
            mujoco.mj_step1,
        )
        if not load(
            self._domain
        ).readings:  # only joints are read: the next step computes the refreshed positions anyway
            for data in datas:
                further(model, data, self.substeps)
        elif self.substeps == 1:
            for data in datas:
                finish(model, data)
                refresh(model, data)
        else:
            for data in datas:
                finish(model, data)
                further(model, data, self.substeps - 1)
                refresh(model, data)


def readings_of(
    domain: str,
    physics: np.ndarray,
    names: tuple[str, ...] | None = None,
) -> dict[str, np.ndarray]:
    """What rewards are computed from, for bare states: only the stages of MuJoCo's pipeline that it
    takes.

    Args:
        domain: whose states.
        physics: (states, physics size), rows of a data set.
        names: other readings of the domain, which must follow from positions and velocities.
    """
    model, data, views = _scratch(domain, load(domain).reward_readings if names is None else names)
    physics = np.ascontiguousarray(physics, dtype=np.float64)
    table = np.empty((len(physics), views.size))
    table[:, : views.physics_size] = physics
    derived = views.of(data)[len(STATE_FIELDS) :]
    if derived:
        for first in range(0, len(physics), _BLOCK):
            block = slice(first, first + _BLOCK)
            table[block, views.physics_size :] = _derived(
                model, data, derived, load(domain).stages, physics[block]
            )
    return views.named(table)


def observations_of(domain: str, physics: np.ndarray) -> np.ndarray:
    """Computes what bare states show an observer.

    Args:
        domain: whose states.
        physics: (states, physics size), rows of a data set.

    Returns:
        (states, observation size) float64; NaN where an entry takes forces or accelerations, which
        a stored state lacks.
    """
    body = load(domain)
    model = start_of(domain, next(iter(body.rewards))).model
    known = tuple(name for name, reading in body.readings.items() if reading.follows(model))
    readings, data = readings_of(domain, physics, known), mujoco.MjData(model)
    for name in body.readings.keys() - readings.keys():
        start, stop = body.readings[name].bounds(model, data)
        readings[name] = np.full((len(physics), stop - start), np.nan)
    return body.observe(readings)


def _derived(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    views: Sequence[np.ndarray],
    stages: Sequence,
    physics: np.ndarray,
) -> np.ndarray:
    """What `views` of `data` show, for each row of `physics`."""
    qpos, qvel = (
        data.qpos,
        data.qvel,
    )  # actuator states (act) move nothing before forces are computed
    pieces: list[bytes] = []
    for state_qpos, state_qvel in zip(
        physics[:, : model.nq], physics[:, model.nq : model.nq + model.nv], strict=True
    ):
        qpos[:] = state_qpos
        qvel[:] = state_qvel
        for stage in stages:
            stage(model, data)
        for view in views:
            pieces.append(view.tobytes())
    return np.frombuffer(b"".join(pieces)).reshape(len(physics), -1)


@lru_cache
def _scratch(domain: str, names: tuple[str, ...]) -> tuple[mujoco.MjModel, mujoco.MjData, Views]:
    body = load(domain)
    model = start_of(domain, next(iter(body.rewards))).model
    data = mujoco.MjData(model)
    return model, data, Views(model, data, {name: body.readings[name] for name in names})


class Rewards:
    """Pays states, each for its own task: tasks are sorted out once, not at every step."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """For states whose tasks, all of one domain and none of them a family, are these; a single
        task serves any number.
        """
        self._tasks, self._count = tuple(tasks), len(tasks)
        functions = load(tasks[0].domain).rewards
        by_mode: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            by_mode.setdefault(mode(task.name, task.domain), []).append(index)
        self._groups = []
        for name, rows in by_mode.items():
            params = {
                key: np.array([tasks[row].params[key] for row in rows])
                for key in tasks[rows[0]].params
            }
            self._groups.append(
                (functions[name], slice(None) if len(by_mode) == 1 else rows, params)
            )

    def __reduce__(self) -> tuple:
        """Copies look up the functions again: those of a domain are often lambdas."""
        return Rewards, (self._tasks,)

    def __call__(self, readings: Mapping[str, np.ndarray], control: np.ndarray) -> np.ndarray:
        """Reward of every state, (states,) float64.

        Args:
            readings: of the states.
            control: (states, action size).
        """
        given = {**readings, "ctrl": control}
        if len(self._groups) == 1:
            function, _, params = self._groups[0]
            return function(given | params)
        reward = np.empty(self._count)
        for function, rows, params in self._groups:
            reward[rows] = function({key: value[rows] for key, value in given.items()} | params)
        return reward
