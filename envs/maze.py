"""Describes the point-mass maze: its rooms, walls and gaps, in metres."""

from __future__ import annotations

import itertools

import numpy as np

# From the maze's axes to the middle of a room, which is the goal of that corner's task.
CORNER = 0.15
RADIUS = 0.015  # of the disc around that middle that earns the full reward
_MASS = 0.01  # radius of the point mass, which stays outside of the walls
_ROOM = 0.06  # from the maze's axes to the nearest point of a room; gaps lie nearer
_GAP = 0.24  # from the centre to the middle of a gap between the cross and an outer wall

# Middles of the rooms, clockwise from the top left, where episodes start.
ROOMS = CORNER * np.array([(-1, 1), (1, 1), (1, -1), (-1, -1)])
ROOM_OF = {
    "reach_top_left": 0,
    "reach_top_right": 1,
    "reach_bottom_right": 2,
    "reach_bottom_left": 3,
}
# Half widths and half heights of the two boxes of the cross, whose middle is the origin.
WALLS = ((0.02, 0.18), (0.18, 0.02))
GAPS = _GAP * np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # gap k leads from room k to room k + 1


def route(room: int, target: int, direction: int) -> list[np.ndarray]:
    """Lists the gaps from `room` to `target`, clockwise (direction +1) or counterclockwise (-1)."""
    gaps = []
    while room != target:
        following = (room + direction) % 4
        gaps.append(GAPS[room if direction == 1 else following])
        room = following
    return gaps


def is_free(position: np.ndarray) -> np.ndarray:
    """Tells of each position, (..., 2), whether the point mass can be there: outside of the walls.

    Returns:
        (...) bool.
    """
    # (..., walls, 2): inside of a box that is wider by the radius of the mass
    inside = np.abs(position)[..., None, :] < np.array(WALLS) + _MASS
    return ~inside.all(axis=-1).any(axis=-1)


def in_a_room(position: np.ndarray) -> np.ndarray:
    """Tells of each position, (..., 2), whether it lies in one of the four rooms: (...) bool."""
    return (np.abs(position) >= _ROOM).all(axis=-1)


def room_of(position: np.ndarray) -> np.ndarray:
    """Returns the number of the room, or of the quarter of the maze, of each position (..., 2)."""
    right, top = position[..., 0] > 0, position[..., 1] > 0
    return np.where(top, np.where(right, 1, 0), np.where(right, 2, 3))


def distance(position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Computes the length of the shorter way from each position to a goal.

    Args:
        position: (states, 2).
        goal: (2,), or (states, 2) with a goal for each.

    Returns:
        (states,).
    """
    goal = np.broadcast_to(goal, position.shape)
    start, end = room_of(position), room_of(goal)
    result = np.empty(len(position))
    for here, there in set(zip(start.tolist(), end.tolist(), strict=True)):
        own = (start == here) & (end == there)
        lengths = []
        for direction in (1, -1):
            stops = [position[own], *route(here, there, direction), goal[own]]
            legs = [np.linalg.norm(b - a, axis=-1) for a, b in itertools.pairwise(stops)]
            lengths.append(sum(legs))
        result[own] = np.minimum(*lengths)
    return result
