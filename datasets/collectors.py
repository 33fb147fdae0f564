"""Policies that make data: each acts for a batch of environments and needs no learning.

A collector is made once for a batch of episodes, and then maps the step and the states' physics to actions.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

import envs
from envs import Task
from envs.registry import GOAL_RING, unknown


class Collector(Protocol):
    """Acts for a batch of episodes."""

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Actions (episodes, action size) for states (episodes, physics size) at agent step `step`."""


class Uniform:
    """Uniform noise, the policy of ExoRL's `random` sets."""

    def __init__(self, task: Task, episodes: int, rng: np.random.Generator) -> None:
        """For `episodes` episodes of `task`."""
        self._shape, self._rng = (episodes, envs.spec(task).action), rng

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        return self._rng.uniform(-1, 1, self._shape)


class Correlated:
    """Ornstein-Uhlenbeck noise whose time scale and strength differ by episode: slow drifts reach what white noise never does."""

    def __init__(self, task: Task, episodes: int, rng: np.random.Generator) -> None:
        """For `episodes` episodes of `task`."""
        self._rng = rng
        self._keep = np.exp(-1 / np.exp(rng.uniform(np.log(2), np.log(100), (episodes, 1))))  # time scales of 2 to 100 steps
        self._strength = rng.uniform(0.3, 1.5, (episodes, 1))
        self._state = rng.standard_normal((episodes, envs.spec(task).action))

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        fresh = self._rng.standard_normal(self._state.shape)
        self._state = self._keep * self._state + np.sqrt(1 - self._keep**2) * fresh
        return np.clip(self._strength * self._state, -1, 1)


class GoalRing:
    """Noisy proportional-derivative control of the point mass to waypoints on the ring of goals, reward-free.

    A fifth of the episodes changes its waypoint midway.
    """

    def __init__(self, task: Task, episodes: int, rng: np.random.Generator) -> None:
        """For `episodes` episodes of `task`."""
        angles = rng.uniform(-np.pi, np.pi, (2, episodes))
        self._waypoints = GOAL_RING * np.stack([np.cos(angles), np.sin(angles)], axis=2)
        self._waypoints[1] = np.where(rng.random((episodes, 1)) < 0.2, self._waypoints[1], self._waypoints[0])
        self._gain = rng.choice([20.0, 8.0], (episodes, 1))
        self._noise = rng.choice([0.0, 0.15, 0.4, 1.0], (episodes, 1), p=[0.55, 0.25, 0.15, 0.05])
        self._rng, self._length = rng, envs.spec(task).length

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        waypoint = self._waypoints[int(step >= self._length // 2)]
        force = proportional_derivative(physics, waypoint, self._gain, 0.25 * self._gain)
        return np.clip(force + self._noise * self._rng.standard_normal(force.shape), -1, 1)


def proportional_derivative(physics: np.ndarray, waypoint: np.ndarray, gain: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Force toward a waypoint for states of the point mass, (states, 2), within the unit disc."""
    position, velocity = physics[:, :2], physics[:, 2:]
    force = gain * (waypoint - position) - damping * velocity
    return force / np.maximum(1, np.linalg.norm(force, axis=1, keepdims=True))


_EVERYWHERE = {"random": Uniform, "noise": Correlated}
_OF_DOMAIN = {"point_mass": {"pd": GoalRing}}


def collectors(task: str | Task) -> dict[str, type[Collector]]:
    """The collectors that a task's domain has, by name."""
    return _EVERYWHERE | _OF_DOMAIN.get(envs.task(task).domain, {})


def collector_class(name: str, task: str | Task) -> type[Collector]:
    """The collector called `name`.

    Raises:
        ValueError: the task's domain has none of this name.
    """
    available = collectors(task)
    if name not in available:
        raise unknown(f"task {envs.task(task).id!r}: collector", name, tuple(available))
    return available[name]
