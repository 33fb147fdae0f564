"""Policies that make data: each acts for a batch of environments and needs no learning.

A collector is made once for a batch of episodes, and then maps the step and the states' physics to
actions. Strengths are drawn by episode, so that a buffer holds trajectories of every quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

import envs
from datasets.proportional import GoalRing, Rooms
from envs import Task
from envs.registry import unknown


class Collector(Protocol):
    """Acts for a batch of episodes.

    Attributes:
        batch: episodes that run together; part of what a seed means.
    """

    batch: ClassVar[int]

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """What its episodes depend on besides task and seed, in plain values: kept beside a buffer,
        which is of one kind.
        """

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """For one episode of each of `tasks`, none of them a family."""

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Actions (episodes, action size) for states (episodes, physics size) at agent step `step`."""


class Uniform:
    """Uniform noise, the policy of ExoRL's `random` sets."""

    batch = 100

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """See `Collector`."""
        return {}

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """See `Collector`."""
        self._shape, self._rng = (len(tasks), envs.spec(tasks[0]).action), rng

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        return self._rng.uniform(-1, 1, self._shape)


_TIME_SCALES = (2.0, 100.0)  # steps
_STRENGTHS = (0.3, 1.5)


class Correlated:
    """Ornstein-Uhlenbeck noise whose time scale and strength differ by episode: slow drifts reach
    what white noise never does.
    """

    batch = 100

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """See `Collector`."""
        return {"time_scales": _TIME_SCALES, "strengths": _STRENGTHS}

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """See `Collector`."""
        self._rng = rng
        self._keep = np.exp(-1 / np.exp(rng.uniform(*np.log(_TIME_SCALES), (len(tasks), 1))))
        self._strength = rng.uniform(*_STRENGTHS, (len(tasks), 1))
        self._state = rng.standard_normal((len(tasks), envs.spec(tasks[0]).action))

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        fresh = self._rng.standard_normal(self._state.shape)
        self._state = self._keep * self._state + np.sqrt(1 - self._keep**2) * fresh
        return np.clip(self._strength * self._state, -1, 1)


_EVERYWHERE = {"random": Uniform, "noise": Correlated}
_STEERED = {"point_mass": GoalRing, "point_mass_maze": Rooms}


def collectors(task: str | Task) -> dict[str, type[Collector]]:
    """The collectors that a task's domain has, by name."""
    from datasets.planned import SETTINGS, Planned  # loads MuJoCo

    domain = envs.task(task).domain
    steered = {"pd": _STEERED[domain]} if domain in _STEERED else {}
    return _EVERYWHERE | steered | ({"mppi": Planned} if domain in SETTINGS else {})


def collector_class(name: str, task: str | Task) -> type[Collector]:
    """The collector called `name`.

    Raises:
        ValueError: the task's domain has none of this name.
    """
    available = collectors(task)
    if name not in available:
        raise unknown(f"task {envs.task(task).id!r}: collector", name, tuple(available))
    return available[name]
