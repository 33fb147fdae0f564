"""A batch of MuJoCo states of one domain: start, step, read. What the vector environment, the relabeller and the planner share.

Every state has an MjData of its own, stepped in dm_control's order (finish the step, further substeps, refresh positions and
velocities; Tassa et al. 2020, arXiv 2006.12983, page 6). So warm start and last sensor readings, which a stored row lacks, are
simply kept, and positions are computed once a step. (`mujoco.rollout` steps a batch too, but does not hand back the warm start,
without which paths drift apart.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import mujoco
import numpy as np

from envs.domain import STATE_FIELDS, Reading, load, mode
from envs.registry import Task

_STATES_PER_THREAD = 8
_BLOCK = 4096  # states between two copies out of MuJoCo's memory
_DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


class Start:
    """Starts episodes as dm_control does: through the task's own `initialize_episode`, on a random state per episode stream."""

    def __init__(self, domain: str, mode: str) -> None:
        """Build dm_control's environment for `mode`; its model is the one to step."""
        self.environment = load(domain).build(mode)
        steps = self.environment.control_timestep() / self.environment.physics.timestep()
        self.substeps = round(steps) * load(domain).repeat

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model."""
        return self.environment.physics.model.ptr

    def episode(self, random: np.random.RandomState, into: mujoco.MjData) -> None:
        """Start an episode from `random` (which advances) and copy everything MuJoCo holds of it to `into`."""
        task = self.environment.task
        own = task.random if hasattr(task, "random") else self.environment.random_state  # suite task, composer environment
        own.set_state(random.get_state())
        self.environment.reset()
        random.set_state(own.get_state())
        mujoco.mj_copyData(into, self.model, self.environment.physics.data.ptr)


class Views:
    """Reads the same stretches of many MjData into one array."""

    def __init__(self, model: mujoco.MjModel, datas: Iterable[mujoco.MjData], readings: Mapping[str, Reading]) -> None:
        """Look up where `readings` lie; `qpos`, `qvel` and `act` come first whatever is asked."""
        wanted = {name: Reading(name) for name in STATE_FIELDS} | dict(readings)
        bounds = {name: reading.bounds(model) for name, reading in wanted.items()}
        ends = np.cumsum([stop - start for start, stop in bounds.values()])
        starts = np.concatenate([[0], ends[:-1]])
        self._columns = {name: slice(int(start), int(end)) for name, start, end in zip(bounds, starts, ends, strict=True)}
        self.size, self.physics_size = int(ends[-1]), self._columns["act"].stop
        spans = [(wanted[name].field, start, stop) for name, (start, stop) in bounds.items() if stop > start]
        self.of = [[getattr(data, source).reshape(-1)[start:stop] for source, start, stop in spans] for data in datas]
        self.derived = self.of[0][len(spans) - len(readings) :]  # what the first MjData holds beyond its physics

    def all(self) -> np.ndarray:
        """Everything, (states, columns)."""
        return self.table([view.tobytes() for views in self.of for view in views])

    def table(self, pieces: Iterable[bytes]) -> np.ndarray:
        """The same from the bytes of all views, in order. Copying through bytes is the quickest way out of many MjData."""
        return np.frombuffer(b"".join(pieces)).reshape(len(self.of), -1)

    def named(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of a table of such rows, by the names of the readings."""
        return {name: table[:, columns] for name, columns in self._columns.items()}


class Batch:
    """States of one domain that step together."""

    def __init__(self, domain: str, modes: Sequence[str]) -> None:
        """Make room for one state for each of `modes`; `start` fills it."""
        self._domain = domain
        self._starts = {kind: Start(domain, kind) for kind in dict.fromkeys(modes)}
        start = self._starts[modes[0]]
        self.model, self.substeps = start.model, start.substeps
        self._datas = [mujoco.MjData(self.model) for _ in modes]
        self._controls = [data.ctrl for data in self._datas]
        self._views = Views(self.model, self._datas, load(domain).readings)
        self._table = self._views.all()
        self._low, self._high = self.model.actuator_ctrlrange.T
        self._unit_range = bool(np.all(self._low == -1) and np.all(self._high == 1))
        self._advance = self._refreshed if load(domain).readings else self._unrefreshed
        threads = min(os.cpu_count() or 1, len(modes) // _STATES_PER_THREAD)
        self._threads = threads if threads > 1 and load(domain).slow else 1
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

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

    def start(self, modes: Sequence[str], randoms: Sequence[np.random.RandomState]) -> None:
        """Start an episode of each state's mode from its random state, which advances."""
        for kind, random, data in zip(modes, randoms, self._datas, strict=True):
            if kind not in self._starts:
                self._starts[kind] = Start(self._domain, kind)
            self._starts[kind].episode(random, data)
        self._table = self._views.all()

    def step(self, action: np.ndarray) -> None:
        """Hold `action` (states, action size), in [-1, 1], for one agent step."""
        control = action if self._unit_range else self._low + (action + 1) * (self._high - self._low) / 2
        if self._pool:
            edges = np.linspace(0, len(self), self._threads + 1).astype(int)
            parts = self._pool.map(self._advance, edges[:-1], edges[1:], [control] * self._threads)
        else:
            parts = [self._advance(0, len(self), control)]
        self._table = self._views.table(parts)

    def check(self) -> None:
        """Fail if any simulation has diverged, after which MuJoCo resets it in silence.

        Raises:
            FloatingPointError: names the states.
        """
        diverged = [index for index, data in enumerate(self._datas) if any(data.warning[kind].number for kind in _DIVERGED)]
        if diverged:
            raise FloatingPointError(f"{self._domain}: the simulation of states {diverged} diverged")

    def _refreshed(self, start: int, stop: int, control: np.ndarray) -> bytes:
        model, further, finish, refresh = self.model, self.substeps - 1, mujoco.mj_step2, mujoco.mj_step1
        pieces: list[bytes] = []
        for data, own, views, new in zip(*self._slots(start, stop), control[start:stop], strict=True):
            own[:] = new
            finish(model, data)
            if further:
                mujoco.mj_step(model, data, further)
            refresh(model, data)
            pieces += [view.tobytes() for view in views]
        return b"".join(pieces)

    def _unrefreshed(self, start: int, stop: int, control: np.ndarray) -> bytes:
        """The same path where only joints are read: the refreshed positions would be computed again by the next step."""
        pieces: list[bytes] = []
        for data, own, views, new in zip(*self._slots(start, stop), control[start:stop], strict=True):
            own[:] = new
            mujoco.mj_step(self.model, data, self.substeps)
            pieces += [view.tobytes() for view in views]
        return b"".join(pieces)

    def _slots(self, start: int, stop: int) -> tuple[list, list, list]:
        return self._datas[start:stop], self._controls[start:stop], self._views.of[start:stop]


def readings_of(domain: str, physics: np.ndarray) -> dict[str, np.ndarray]:
    """What rewards are computed from, for bare states: only the stages of MuJoCo's pipeline that it takes.

    Args:
        domain: whose states.
        physics: (states, physics size), rows of a data set.
    """
    model, data, views = _scratch(domain)
    physics = np.ascontiguousarray(physics, dtype=np.float64)
    table = np.empty((len(physics), views.size))
    table[:, : views.physics_size] = physics
    if views.derived:
        for first in range(0, len(physics), _BLOCK):
            block = slice(first, first + _BLOCK)
            table[block, views.physics_size :] = _derived(model, data, views, load(domain).stages, physics[block])
    return views.named(table)


def _derived(model: mujoco.MjModel, data: mujoco.MjData, views: Views, stages: Sequence, physics: np.ndarray) -> np.ndarray:
    """What `views` reads beyond the physics, for each row of it."""
    qpos, qvel = data.qpos, data.qvel  # actuator states (act) move nothing before forces are computed
    pieces: list[bytes] = []
    for state_qpos, state_qvel in zip(physics[:, : model.nq], physics[:, model.nq : model.nq + model.nv], strict=True):
        qpos[:] = state_qpos
        qvel[:] = state_qvel
        for stage in stages:
            stage(model, data)
        for view in views.derived:
            pieces.append(view.tobytes())
    return np.frombuffer(b"".join(pieces)).reshape(len(physics), -1)


@lru_cache
def _scratch(domain: str) -> tuple[mujoco.MjModel, mujoco.MjData, Views]:
    body = load(domain)
    start = Start(domain, next(iter(body.rewards)))
    data = mujoco.MjData(start.model)
    return start.model, data, Views(start.model, [data], {name: body.readings[name] for name in body.reward_readings})


class Rewards:
    """Pays states, each for its own task: tasks are sorted out once, not at every step."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """For states whose tasks, all of one domain and none of them a family, are these; a single task serves any number."""
        self._count = len(tasks)
        functions = load(tasks[0].domain).rewards
        by_mode: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            by_mode.setdefault(mode(task.name, task.domain), []).append(index)
        self._groups = []
        for name, rows in by_mode.items():
            params = {key: np.array([tasks[row].params[key] for row in rows]) for key in tasks[rows[0]].params}
            self._groups.append((functions[name], slice(None) if len(by_mode) == 1 else rows, params))

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
