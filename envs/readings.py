"""Computes the readings of stored states, from which observations and rewards are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from threading import get_ident

import numpy as np

from envs.domain import STATE_FIELDS, Reading, load_domain
from envs.episode_start import episode_starter
from envs.headless import mujoco

_BLOCK_STATES = 4096  # between two copies out of MuJoCo's memory


class ReadingLayout:
    """Describes where readings lie in an MjData, and in a row of a table of them.

    A row holds `qpos`, `qvel` and `act`, and then the readings in their order.

    Attributes:
        size: numbers of a row.
        physics_size: numbers of qpos, qvel and act.
    """

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, readings: Mapping[str, Reading]
    ) -> None:
        """Looks up `readings` in a model and one of its states."""
        self._readings = {name: Reading(name) for name in STATE_FIELDS} | dict(readings)
        self._bounds = {key: reading.bounds(model, data) for key, reading in self._readings.items()}
        ends = np.cumsum([stop - start for start, stop in self._bounds.values()])
        starts = np.concatenate([[0], ends[:-1]])
        self._columns = {
            name: slice(int(start), int(end))
            for name, start, end in zip(self._bounds, starts, ends, strict=True)
        }
        self.size, self.physics_size = int(ends[-1]), self._columns["act"].stop

    def views(self, data: mujoco.MjData) -> list[np.ndarray]:
        """Returns views of the numbers in an MjData; first those of `qpos`, `qvel` and `act`."""
        spans = [(self._readings[name].field, *span) for name, span in self._bounds.items()]
        return [getattr(data, source).reshape(-1)[start:stop] for source, start, stop in spans]

    def by_name(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Splits a table, (states, size), into readings."""
        return {name: table[:, columns] for name, columns in self._columns.items()}


def readings_of(
    domain: str,
    physics: np.ndarray,
    names: tuple[str, ...] | None = None,
) -> dict[str, np.ndarray]:
    """Computes readings of bare states, by the few stages of MuJoCo's pipeline that they take.

    Args:
        domain: of the states.
        physics: (states, physics size), rows of a data set.
        names: of readings, which must follow from positions and velocities. None takes the
            readings of the domain's rewards.

    Returns:
        name -> (states, size); `qpos`, `qvel` and `act` among them.
    """
    names = load_domain(domain).reward_readings if names is None else names
    model, data, layout = _scratch(domain, names, get_ident())
    physics = np.ascontiguousarray(physics, dtype=np.float64)
    table = np.empty((len(physics), layout.size))
    table[:, : layout.physics_size] = physics
    views = layout.views(data)[len(STATE_FIELDS) :]
    if views:
        stages = load_domain(domain).stages
        for first in range(0, len(physics), _BLOCK_STATES):
            block = slice(first, first + _BLOCK_STATES)
            computed = _compute(model, data, views, stages, physics[block])
            table[block, layout.physics_size :] = computed
    return layout.by_name(table)


def observations_of(domain: str, physics: np.ndarray) -> np.ndarray:
    """Computes the observations of bare states.

    Args:
        domain: of the states.
        physics: (states, physics size), rows of a data set.

    Returns:
        (states, observation size) float64; NaN where an entry depends on forces or accelerations,
        which a stored state lacks.
    """
    body = load_domain(domain)
    model = episode_starter(domain, body.any_behaviour).model
    known = tuple(key for key, read in body.readings.items() if read.follows_from_physics(model))
    readings, data = readings_of(domain, physics, known), mujoco.MjData(model)
    for name in body.readings.keys() - readings.keys():
        start, stop = body.readings[name].bounds(model, data)
        readings[name] = np.full((len(physics), stop - start), np.nan)
    return body.observe(readings)


def _compute(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    views: Sequence[np.ndarray],
    stages: Sequence[Callable[[mujoco.MjModel, mujoco.MjData], None]],
    physics: np.ndarray,
) -> np.ndarray:
    """Sets `data` to each row of `physics`, runs the stages, and copies what `views` show."""
    # Actuator states (act) are not set: they move nothing before forces are computed.
    qpos, qvel = data.qpos, data.qvel
    rows_qpos, rows_qvel = physics[:, : model.nq], physics[:, model.nq : model.nq + model.nv]
    # Bytes, joined at the end, cost less than small copies into an array.
    pieces: list[bytes] = []
    for row_qpos, row_qvel in zip(rows_qpos, rows_qvel, strict=True):
        qpos[:] = row_qpos
        qvel[:] = row_qvel
        for stage in stages:
            stage(model, data)
        for view in views:
            pieces.append(view.tobytes())
    return np.frombuffer(b"".join(pieces)).reshape(len(physics), -1)


@lru_cache
def _scratch(
    domain: str, names: tuple[str, ...], thread: int
) -> tuple[mujoco.MjModel, mujoco.MjData, ReadingLayout]:
    """Returns a model, an MjData for one thread to compute in, and the layout of the readings."""
    body = load_domain(domain)
    model = episode_starter(domain, body.any_behaviour).model
    data = mujoco.MjData(model)
    return model, data, ReadingLayout(model, data, {name: body.readings[name] for name in names})
