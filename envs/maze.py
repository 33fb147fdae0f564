"""Describes the point-mass maze: its rooms, walls and gaps, in metres."""

from __future__ import annotations

import numpy as np

# From the maze's axes to the middle of a room, which is the goal of that corner's task.
CORNER = 0.15
RADIUS = 0.015  # of the disc around that middle that earns the full reward
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


def distance(position: np.ndarray, target: int) -> np.ndarray:
    """Computes the length of the shorter way from each position to the middle of a room.

    Args:
        position: (states, 2).
        target: number of the room.

    Returns:
        (states,).
    """
    right, top = position[:, 0] > 0, position[:, 1] > 0
    room = np.where(top, np.where(right, 1, 0), np.where(right, 2, 3))
    result = np.empty(len(position))
    for here in range(4):
        own = position[room == here]
        lengths = []
        for direction in (1, -1):
            stops = np.array([*route(here, target, direction), ROOMS[target]])
            # From the position to the first stop, and from stop to stop.
            rest = np.linalg.norm(np.diff(stops, axis=0), axis=1).sum()
            lengths.append(np.linalg.norm(own - stops[0], axis=1) + rest)
        result[room == here] = np.minimum(*lengths)
    return result
