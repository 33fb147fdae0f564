"""What there is of a task to see from above, where a state begins with a position in a plane."""

from __future__ import annotations

from typing import NamedTuple

from envs import maze
from envs.registry import GOAL_RADIUS, Task


class Plane(NamedTuple):
    """A task from above, metres.

    Attributes:
        goal: (x, y) of what is to be reached.
        radius: around the goal, what pays in full.
        walls: (half width, half height) of boxes about the origin.
    """

    goal: tuple[float, float]
    radius: float
    walls: tuple[tuple[float, float], ...]


def plane(task: Task) -> Plane | None:
    """What there is to see; None where states are no positions in a plane, or the task has no place
    to reach.
    """
    if task.domain == "point_mass" and "goal" in task.params:
        return Plane(task.params["goal"], GOAL_RADIUS, ())
    room = maze.ROOM_OF.get(task.name.removeprefix("point_mass_maze_"))
    if task.domain == "point_mass_maze" and room is not None:
        return Plane(tuple(maze.ROOMS[room]), maze.RADIUS, maze.WALLS)
    return None
