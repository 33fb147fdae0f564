"""Collects data of the point masses by proportional-derivative control to waypoints.

Nothing is learned, and rewards play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs import Task, maze
from envs.family_table import GOAL_RING

_GAINS = (20.0, 8.0)
_DAMPING = 0.25  # derivative gain, as a share of the proportional one
_NOISE = (0.0, 0.15, 0.4, 1.0)
_NOISE_SHARES = (0.55, 0.25, 0.15, 0.05)
_TURN_SHARE = 0.2  # of the episodes on the ring, which change their waypoint

_ARRIVED = 0.05  # metres from a waypoint; with less, the mass would come to rest in every gap
# Control steps in a room. Most stay until the episode ends, so that its return is that of the room
# and not of chance.
_STAY = (1, 2000)


class _WaypointCollector:
    """Steers toward waypoints with a gain and a noise drawn for each episode."""

    batch, one_task, demonstrator = 100, False, None

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the controller's gains and noise."""
        return {
            "gains": _GAINS,
            "damping": _DAMPING,
            "noise": _NOISE,
            "noise_shares": _NOISE_SHARES,
        }

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Draws the gain and the noise of each episode."""
        self._gain = rng.choice(_GAINS, (len(tasks), 1))
        self._noise = rng.choice(_NOISE, (len(tasks), 1), p=_NOISE_SHARES)
        self._rng = rng

    def _force(self, physics: np.ndarray, waypoint: np.ndarray) -> np.ndarray:
        """Returns a noisy force toward `waypoint`, (episodes, 2)."""
        position, velocity = physics[:, :2], physics[:, 2:]
        force = self._gain * (waypoint - position - _DAMPING * velocity)
        # Its length is at most 1 before noise is added, like that of the motors' force.
        force /= np.maximum(1, np.linalg.norm(force, axis=1, keepdims=True))
        return np.clip(force + self._noise * self._rng.standard_normal(force.shape), -1, 1)


class GoalRingCollector(_WaypointCollector):
    """Moves from the centre to a point of the ring on which goals lie.

    Some episodes change to another point of the ring midway.
    """

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the controller's settings and those of the ring."""
        return super().settings(task, action_repeat) | {"ring": GOAL_RING, "turns": _TURN_SHARE}

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Draws the waypoints of each episode."""
        super().__init__(tasks, rng, length, action_repeat)
        angles = rng.uniform(-np.pi, np.pi, (2, len(tasks)))
        first, second = GOAL_RING * np.stack([np.cos(angles), np.sin(angles)], axis=2)
        turns = rng.random((len(tasks), 1)) < _TURN_SHARE
        self._waypoints = (first, np.where(turns, second, first))
        self._length = length

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `datasets.collectors.Collector.act`."""
        second_half = step >= self._length // 2
        return self._force(physics, self._waypoints[int(second_half)])


class MazeRoomsCollector(_WaypointCollector):
    """Moves from room to room of the maze, either way round, and stays in each for a while."""

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the controller's settings and those of the walk."""
        return super().settings(task, action_repeat) | {"arrived": _ARRIVED, "stay": _STAY}

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Draws the first room of each episode; all start in the top left one."""
        super().__init__(tasks, rng, length, action_repeat)
        self._room = np.zeros(len(tasks), int)
        self._leave = np.zeros(len(tasks), int)  # step of the next departure; 0 on the way
        self._route: list[list[np.ndarray]] = [[] for _ in tasks]
        self._waypoint = np.tile(maze.ROOMS[0], (len(tasks), 1))
        for episode, rooms in enumerate(rng.integers(0, 4, len(tasks))):
            self._set_out(episode, rooms)

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `datasets.collectors.Collector.act`."""
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
        """Plans a route to the room that is `rooms` further, clockwise or counterclockwise."""
        direction = self._rng.choice([-1, 1])
        start = self._room[episode]
        target = (start + direction * rooms) % 4
        self._room[episode] = target
        waypoints = [*maze.route(start, target, direction), maze.ROOMS[target]]
        self._waypoint[episode], *self._route[episode] = waypoints
