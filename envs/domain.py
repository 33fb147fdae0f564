"""What a domain is: a dm_control environment that starts episodes, and vectorised functions of a
batch of states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from envs.headless import mujoco

Readings = Mapping[str, np.ndarray]  # name -> (states, size)

STATE_FIELDS = ("qpos", "qvel", "act")  # what a stored row of physics holds, in this order
_OBJECTS = {
    "xpos": mujoco.mjtObj.mjOBJ_BODY,
    "xipos": mujoco.mjtObj.mjOBJ_BODY,
    "xmat": mujoco.mjtObj.mjOBJ_BODY,
    "subtree_linvel": mujoco.mjtObj.mjOBJ_BODY,
    "subtree_angmom": mujoco.mjtObj.mjOBJ_BODY,
    "site_xpos": mujoco.mjtObj.mjOBJ_SITE,
    "site_xmat": mujoco.mjtObj.mjOBJ_SITE,
}


class Reading(NamedTuple):
    """A stretch of one field of MjData: all of it, or what belongs to one named body, site or
    sensor.
    """

    field: str
    element: str | None = None

    def bounds(self, model: mujoco.MjModel, data: mujoco.MjData) -> tuple[int, int]:
        """First and past-last index into the flattened field of `data`, a state of `model`."""
        if self.element is None:
            return 0, getattr(data, self.field).size
        if self.field == "sensordata":
            sensor = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SENSOR, self.element)
            start = int(model.sensor_adr[sensor])
            return start, start + int(model.sensor_dim[sensor])
        row = mujoco.mj_name2id(model, _OBJECTS[self.field], self.element)
        width = 9 if self.field.endswith("mat") else 3
        return row * width, (row + 1) * width

    def follows(self, model: mujoco.MjModel) -> bool:
        """Returns whether positions and velocities tell it, without forces or accelerations."""
        if self.field != "sensordata":
            return True
        every = self.element is None
        stages = model.sensor_needstage if every else model.sensor(self.element).needstage
        return bool(np.all(np.asarray(stages) < int(mujoco.mjtStage.mjSTAGE_ACC)))


@dataclass(frozen=True)
class Domain:
    """One body and its tasks.

    Attributes:
        build: mode name -> the dm_control environment whose task starts an episode of that mode.
        readings: what observations and rewards are computed from, by name. `qpos`, `qvel`, `act`
            and `ctrl` are always there.
        stages: MuJoCo's pipeline functions that bring the rewards' readings up to date with a bare
            state (no collisions).
        observe: readings -> (states, observation).
        rewards: mode name -> function of readings, (states,). Parameters of tasks stand among the
            readings under their names.
        guides: for modes whose rewards are flat almost everywhere, a score that a planner can
            follow.
        repeat: control steps of one agent step.
        slow: whether a step takes so long (0.1 ms) that threads do not merely wait for each other.
    """

    build: Callable[[str], Any]
    observe: Callable[[Readings], np.ndarray]
    rewards: Mapping[str, Callable[[Readings], np.ndarray]]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    reward_readings: tuple[str, ...] = ()
    guides: Mapping[str, Callable[[Readings], np.ndarray]] = field(default_factory=dict)
    stages: tuple[Callable[[mujoco.MjModel, mujoco.MjData], None], ...] = ()
    repeat: int = 1
    slow: bool = False


@lru_cache
def load(name: str) -> Domain:
    """The domain called `name` (a domain name of the registry)."""
    return import_module(f"envs.domains.{name}").DOMAIN


def mode(task_name: str, domain: str) -> str:
    """A task's name without its domain's: `walker_walk` -> `walk`."""
    return task_name.removeprefix(f"{domain}_")
