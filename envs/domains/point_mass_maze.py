"""Defines the point mass in a maze of four rooms: it reaches for a corner (ExoRL) or a hidden goal.

The maze is dm_control's point_mass with a cross of two walls.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from dm_control.rl.control import Environment
from dm_control.suite import common, point_mass
from dm_control.utils.rewards import tolerance
from lxml import etree

from envs.domain import Domain, FamilyReward, Readings
from envs.domains.point_mass import observe
from envs.maze import RADIUS, ROOM_OF, ROOMS, WALLS, distance

_START_X, _START_Y = (-0.29, -0.15), (0.15, 0.29)  # the top-left room
_TIME_LIMIT = 20  # seconds


class _FromTopLeft(point_mass.PointMass):
    """Starts at rest, uniformly in the top-left room."""

    def initialize_episode(self, physics: point_mass.Physics) -> None:
        physics.data.qpos[:] = self.random.uniform(*_START_X), self.random.uniform(*_START_Y)


def _model() -> bytes:
    """Returns dm_control's point_mass with walls, and with a target that does not collide."""
    tree = etree.fromstring(common.read_model("point_mass.xml"))
    option = tree.find("option")
    option.remove(option.find("flag"))  # it turns contacts off
    tree.find(".//geom[@name='target']").attrib.update({"contype": "0", "conaffinity": "0"})
    for name, (width, height) in zip(("maze_x", "maze_y"), WALLS, strict=True):
        box = {
            "type": "box",
            "pos": "0 0 .02",
            "size": f"{width} {height} .02",
            "material": "decoration",
        }
        etree.SubElement(tree.find("worldbody"), "geom", name=name, **box)
    return etree.tostring(tree)


def _build(behaviour: str) -> Environment:
    physics = point_mass.Physics.from_xml_string(_model(), common.ASSETS)
    return Environment(physics, _FromTopLeft(randomize_gains=False), time_limit=_TIME_LIMIT)


def _measure(readings: Readings) -> np.ndarray:
    """Returns position and how small controls are, 4 to 5: (states, 3)."""
    small = tolerance(readings["ctrl"], margin=1, value_at_margin=0, sigmoid="quadratic")
    return np.concatenate([readings["qpos"], small.mean(axis=1)[:, None] + 4], axis=1)


def _reward(measured: np.ndarray, goal: np.ndarray) -> np.ndarray:
    off = np.linalg.norm(measured[..., :2] - goal, axis=-1)
    # Controls cost a fifth of the reward at most.
    return tolerance(off, (0, RADIUS), RADIUS) * measured[..., 2] / 5


def _approach(readings: Readings, goal: np.ndarray) -> np.ndarray:
    # The reward is flat away from the goal, and the straight way to it may lead into a wall.
    return -distance(readings["qpos"], goal)


DOMAIN = Domain(
    build=_build,
    observe=observe,
    rewards={
        corner: lambda readings, goal=ROOMS[room]: _reward(_measure(readings), goal)
        for corner, room in ROOM_OF.items()
    },
    shaped_rewards={
        corner: partial(_approach, goal=ROOMS[room]) for corner, room in ROOM_OF.items()
    },
    families={"goal": FamilyReward(_measure, _reward, _approach)},
)
