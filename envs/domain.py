"""Describes a domain: a body, how its episodes start, and what is observed and rewarded.

A domain is a dm_control environment, which starts episodes, and vectorised functions of a batch of
states, which replace that environment's own, slower ones.
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


class Reading(NamedTuple):
    """Names numbers of an MjData: a whole field, or the part of one body, site or sensor.

    Attributes:
        field: of MjData, such as `xpos` or `sensordata`.
        element: name of a body, site or sensor; None for the whole field.
    """

    field: str
    element: str | None = None

    def bounds(self, model: mujoco.MjModel, data: mujoco.MjData) -> tuple[int, int]:
        """Returns the first and the past-last index into the flattened field of `data`."""
        if self.element is None:
            return 0, getattr(data, self.field).size
        if self.field == "sensordata":
            sensor = model.sensor(self.element)
            start = int(sensor.adr[0])
            return start, start + int(sensor.dim[0])
        owner = model.site if self.field.startswith("site_") else model.body
        row = owner(self.element).id
        width = 9 if self.field.endswith("mat") else 3  # a rotation matrix or a vector
        return row * width, (row + 1) * width

    def follows_from_physics(self, model: mujoco.MjModel) -> bool:
        """Tells whether positions and velocities determine it, without forces or accelerations."""
        if self.field != "sensordata":
            return True
        every = self.element is None
        stages = model.sensor_needstage if every else model.sensor(self.element).needstage
        return bool(np.all(np.asarray(stages) < int(mujoco.mjtStage.mjSTAGE_ACC)))


@dataclass(frozen=True)
class FamilyReward:
    """Defines the reward of a family's members: from numbers that all members share.

    These numbers are measured on stored states and kept on disk once. The reward of any member is
    computed from them when it is needed, so rewards of many members need no disk.

    Attributes:
        measure: readings -> (states, numbers) float64: all that the reward depends on besides the
            parameters.
        reward: (measured (..., numbers), **parameters) -> (...). A parameter has the shape (...),
            or (..., numbers) where it is several; shapes broadcast.
        score: (readings, **parameters) -> (states,): what a planner maximises. None: the reward.
        learning: as `reward`, at most 1: what a learner maximises. None: the reward.
    """

    measure: Callable[[Readings], np.ndarray]
    reward: Callable[..., np.ndarray]
    score: Callable[..., np.ndarray] | None = None
    learning: Callable[..., np.ndarray] | None = None


@dataclass(frozen=True)
class Domain:
    """Describes one body and its tasks.

    A behaviour is a task's name without its domain's: `walk` of `walker_walk`.

    Attributes:
        build: behaviour -> the dm_control environment whose task starts an episode of it.
        observe: readings -> observations, (states, observation size).
        rewards: behaviour -> function of readings, which returns (states,).
        families: behaviour -> reward of a family of `envs.family_table` with parameters.
        readings: what observations are computed from, by name. `qpos`, `qvel` and `act` are always
            there, and `ctrl` for rewards.
        reward_readings: names of the readings that rewards take.
        shaped_rewards: smoother scores that a planner maximises, by behaviour, where the reward
            itself is flat almost everywhere.
        stages: the functions of MuJoCo's pipeline that compute the readings of a bare state.
            They leave out collisions and the solver, which take most of a full forward pass.
        control_steps: control steps of dm_control's environment in one environment step.
        use_threads: whether a step takes long enough (0.1 ms) for threads to gain anything.
    """

    build: Callable[[str], Any]
    observe: Callable[[Readings], np.ndarray]
    rewards: Mapping[str, Callable[[Readings], np.ndarray]] = field(default_factory=dict)
    families: Mapping[str, FamilyReward] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    reward_readings: tuple[str, ...] = ()
    shaped_rewards: Mapping[str, Callable[[Readings], np.ndarray]] = field(default_factory=dict)
    stages: tuple[Callable[[mujoco.MjModel, mujoco.MjData], None], ...] = ()
    control_steps: int = 1
    use_threads: bool = False

    @property
    def any_behaviour(self) -> str:
        """Returns the behaviour whose model serves where no task is given."""
        return next(iter([*self.rewards, *self.families]))


@lru_cache
def load_domain(name: str) -> Domain:
    """Loads the domain called `name` (a domain's name in the registry)."""
    return import_module(f"envs.domains.{name}").DOMAIN
