"""Proportional-derivative control of the point masses to waypoints: nothing is learned, and no
reward is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import envs
from envs import Task, maze
from envs.registry import GOAL_RING

_GAINS = (20.0, 8.0)
_DAMPING = 0.25  # of the gain
_NOISE = (0.0, 0.15, 0.4, 1.0)
_NOISE_SHARES = (0.55, 0.25, 0.15, 0.05)
_TURNS = 0.2  # share of the episodes on the ring that change their waypoint

_ARRIVED = 0.05  # metres from a waypoint; less would have the mass settle in every gap
_STAY = (
    1,
    2000,
)  # control steps in a room, mostly to the end of the episode: what it earned is then the room's and not chance


class _Steered:
    """Steers toward `waypoint` with a gain and a noise drawn by episode."""

    batch = 100

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """See `datasets.collectors.Collector`."""
        return {
            "gains": _GAINS,
            "damping": _DAMPING,
            "noise": _NOISE,
            "noise_shares": _NOISE_SHARES,
        }

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """One episode for each of `tasks`."""
        self._gain = rng.choice(_GAINS, (len(tasks), 1))
        self._noise = rng.choice(_NOISE, (len(tasks), 1), p=_NOISE_SHARES)
        self._rng = rng

    def _force(self, physics: np.ndarray, waypoint: np.ndarray) -> np.ndarray:
        """Noisy force toward `waypoint`, (episodes, 2); without its noise within the unit disc."""
        force = self._gain * (waypoint - physics[:, :2] - _DAMPING * physics[:, 2:])
        force /= np.maximum(1, np.linalg.norm(force, axis=1, keepdims=True))
        return np.clip(force + self._noise * self._rng.standard_normal(force.shape), -1, 1)


class GoalRing(_Steered):
    """From the centre to a point of the ring on which goals lie; some of the episodes change their
    waypoint midway.
    """

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """See `datasets.collectors.Collector`."""
        return _Steered.settings(domain) | {"ring": GOAL_RING, "turns": _TURNS}

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """See `Collector`."""
        super().__init__(tasks, rng)
        angles = rng.uniform(-np.pi, np.pi, (2, len(tasks)))
        self._waypoints = GOAL_RING * np.stack([np.cos(angles), np.sin(angles)], axis=2)
        self._waypoints[1] = np.where(
            rng.random((len(tasks), 1)) < _TURNS, self._waypoints[1], self._waypoints[0]
        )
        self._length = envs.spec(tasks[0]).length

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        return self._force(physics, self._waypoints[int(step >= self._length // 2)])


class Rooms(_Steered):
    """Through the rooms of the maze: at once to any of them, one way round or the other, long
    there, then on to another.
    """

    @staticmethod
    def settings(domain: str) -> dict[str, Any]:
        """See `datasets.collectors.Collector`."""
        return _Steered.settings(domain) | {"arrived": _ARRIVED, "stay": _STAY}

    def __init__(self, tasks: Sequence[Task], rng: np.random.Generator) -> None:
        """See `Collector`."""
        super().__init__(tasks, rng)
        self._room = np.zeros(len(tasks), int)
        self._leave = np.zeros(
            len(tasks), int
        )  # step at which to set out again; 0 while on the way
        self._route: list[list[np.ndarray]] = [[] for _ in tasks]
        self._waypoint = np.tile(maze.ROOMS[0], (len(tasks), 1))
        for episode, rooms in enumerate(rng.integers(0, 4, len(tasks))):
            self._set_out(episode, rooms)

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """See `Collector`."""
        arrived = np.linalg.norm(self._waypoint - physics[:, :2], axis=1) < _ARRIVED
        for episode in np.flatnonzero(arrived):
            if self._route[episode]:
                self._waypoint[episode] = self._route[episode].pop(0)
            elif not self._leave[episode]:
                self._leave[episode] = step + self._rng.integers(*_STAY)
            elif step >= self._leave[episode]:
                self._leave[episode] = 0
                self._set_out(episode, self._rng.integers(1, 4))
        return self._force(physics, self._waypoint)

    def _set_out(self, episode: int, rooms: int) -> None:
        """Plan a way through as many gaps, clockwise or counterclockwise."""
        direction = self._rng.choice([-1, 1])
        here, self._room[episode] = (
            self._room[episode],
            (self._room[episode] + direction * rooms) % 4,
        )
        gaps = maze.route(here, self._room[episode], direction)
        self._waypoint[episode], *self._route[episode] = [*gaps, maze.ROOMS[self._room[episode]]]
