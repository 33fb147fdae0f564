"""Describes what to draw of a task from above, where a state starts with a position in a plane."""

from __future__ import annotations

from typing import NamedTuple

from envs import maze
from envs.family_table import GOAL_RADIUS
from envs.registry import Task


class TopDownView(NamedTuple):
    """Describes a task as seen from above, in metres.

    Attributes:
        goal: (x, y) of the place to reach.
        radius: of the disc around the goal that earns the full reward.
        tenth: distance from the goal at which a tenth of the reward is left.
        walls: (half width, half height) of boxes centred on the origin.
    """

    goal: tuple[float, float]
    radius: float
    tenth: float
    walls: tuple[tuple[float, float], ...]


def top_down_view(task: Task) -> TopDownView | None:
    """Returns the view of a task; None where states have no position, or the task has no goal."""
    if task.domain == "point_mass" and "goal" in task.params:
        return TopDownView(task.params["goal"], GOAL_RADIUS, 2 * GOAL_RADIUS, ())
    if task.domain == "point_mass_maze" and not task.hidden:
        room = maze.ROOM_OF.get(task.behaviour)
        goal = task.params["goal"] if room is None else tuple(maze.ROOMS[room])
        return TopDownView(goal, maze.RADIUS, 2 * maze.RADIUS, maze.WALLS)
    return None
