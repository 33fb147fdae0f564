"""Lists the families of hidden tasks: a row of `FAMILIES` for each.

A family is a reward with parameters that are never observed, such as the speed that pays. The
rewards themselves stand in the domains' modules. This module loads no physics.

A row says which values the parameters may have, and draws them in two regions. Training tasks and
the held-out tasks between them come from the first. The second holds what lies beyond, such as
higher speeds: no task of training lies there. Collected data pursue tasks of both regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from envs import maze

GOAL_RING = 0.15  # metres from the centre at which the goals of point_mass_goal lie
# Metres around such a goal that earn the full reward, and over which the reward then falls to 0.1.
GOAL_RADIUS = 0.045
ARENA = 0.29  # metres: the point mass's joints end here

Value = float | tuple[float, ...]
"""The value of a parameter: a number, or a tuple of its numbers."""

Sampler = Callable[[np.random.Generator, int], np.ndarray]
"""(source of the draws, count) -> (count, numbers): values of all parameters, one after another."""


@dataclass(frozen=True)
class Parameter:
    """Describes a parameter of a family.

    Attributes:
        unit: of its numbers.
        low: the smallest allowed value of each of its numbers.
        high: the largest.
        fits: whether a value between them is allowed; None allows all.
        allowed: what `fits` asks for, in words.
        decimals: at most so many decimals are kept of its numbers; None: six digits of any number.
    """

    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    fits: Callable[[np.ndarray], bool] | None = None
    allowed: str = ""
    decimals: int | None = None

    def __post_init__(self) -> None:
        """Checks the bounds.

        Raises:
            ValueError: they are not sequences of equally many numbers, or a low one exceeds its
                high one.
        """
        try:
            low, high = np.asarray(self.low, float), np.asarray(self.high, float)
            fit = low.ndim == 1 and low.size and low.shape == high.shape and (low <= high).all()
        except (TypeError, ValueError):
            fit = False
        if not fit:
            raise ValueError(
                f"Parameter({self.unit!r}, {self.low!r}, {self.high!r}): allowed: low and high of "
                "as many numbers each as the parameter has, such as (-1.0,), (1.0,)"
            )

    @property
    def size(self) -> int:
        """Returns how many numbers the parameter has."""
        return len(self.low)

    def check(self, label: str, value: Any) -> Value:
        """Returns a value, rounded to six digits and to `decimals`, as ids show it.

        Bounds are rounded in the same way, so the id of a value at a bound gives this value again.

        Args:
            label: what is given, for the error.
            value: one number, or a sequence of numbers.

        Raises:
            ValueError: it is no allowed value.
        """
        try:
            numbers = np.asarray(value, dtype=float).reshape(-1)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        low, high = self._rounded(self.low), self._rounded(self.high)
        if len(numbers) == self.size and np.isfinite(numbers).all():
            rounded = self._rounded(numbers)
            nearest = np.clip(rounded, low, high)
            if (nearest == rounded).all() and (self.fits is None or self.fits(rounded)):
                return _value(rounded)
            near = f"; nearest match: {_value(nearest)}" if (nearest != rounded).any() else ""
        else:
            near = ""
        words = {1: "a number", 2: "two numbers (x, y)"}.get(self.size, f"{self.size} numbers")
        allowed = f"{words} between {low[0]:g} and {high[0]:g} {self.unit}"
        allowed += f", {self.allowed}" if self.allowed else ""
        raise ValueError(f"{label}={value!r} must be {allowed}{near}")

    def _rounded(self, numbers: Iterable[float]) -> np.ndarray:
        kept = map(float, numbers)
        if self.decimals is not None:
            kept = (round(number, self.decimals) for number in kept)
        # Adding 0 turns -0, whose id would differ, into 0.
        return np.array([float(f"{number:.6g}") + 0.0 for number in kept])


def _value(numbers: np.ndarray) -> Value:
    values = tuple(numbers.tolist())
    return values if len(values) > 1 else values[0]


_parameter = partial(Parameter, decimals=6)  # of our own families, whose ids show micrometres


@dataclass(frozen=True)
class Family:
    """Describes a family of tasks.

    Attributes:
        domain: the body.
        parameters: by name. A family without parameters has the domain's single tasks as members.
        training: draws of training tasks, and of held-out tasks between them.
        beyond: draws of held-out tasks that lie outside of what `training` draws.
        collection: draws of the tasks that collected data pursue; None: as `training`.
        reward: of a family of `envs.own_families`, which has no domain's module; else None.
    """

    domain: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    training: Sampler | None = None
    beyond: Sampler | None = None
    collection: Sampler | None = None
    reward: Callable[..., np.ndarray] | None = None


def _box(low: tuple[float, ...], high: tuple[float, ...]) -> Sampler:
    """Returns draws from a box, evenly."""
    return lambda rng, count: rng.uniform(low, high, (count, len(low)))


def _where(draw: Sampler, accepts: Callable[[np.ndarray], np.ndarray]) -> Sampler:
    """Returns those draws that a condition accepts: (count, numbers) -> (count,) bool."""

    def sample(rng: np.random.Generator, count: int) -> np.ndarray:
        found = draw(rng, 0)
        while len(found) < count:
            drawn = draw(rng, count)
            found = np.concatenate([found, drawn[accepts(drawn)]])
        return found[:count]

    return sample


def _on_rings(*radii: tuple[float, float]) -> Sampler:
    """Returns draws of points (x, y) whose distance from the centre lies in one of some ranges."""

    def sample(rng: np.random.Generator, count: int) -> np.ndarray:
        low, high = np.array(radii)[rng.integers(len(radii), size=count)].T
        radius, angle = rng.uniform(low, high), rng.uniform(-math.pi, math.pi, count)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    return sample


def _on_goal_ring(rng: np.random.Generator, count: int) -> np.ndarray:
    # Draws as all earlier versions did, so that evaluations of these have the same goals.
    angles = rng.uniform(-math.pi, math.pi, count)
    return np.array([(GOAL_RING * math.cos(a), GOAL_RING * math.sin(a)) for a in angles])


def _split(draw: Sampler, is_training: Callable[[np.ndarray], np.ndarray]) -> dict[str, Sampler]:
    """Returns a row's draws: training tasks are those of `draw` that a condition accepts."""
    return {
        "training": _where(draw, is_training),
        "beyond": _where(draw, lambda values: ~is_training(values)),
        "collection": draw,
    }


def _speed_family(
    domain: str, training: tuple[float, float], collection: tuple[float, float]
) -> Family:
    """Returns a family whose hidden parameter is the forward speed that pays, in m/s."""
    low, high = training
    return Family(
        domain,
        {"speed": _parameter("m/s", (-10.0,), (10.0,))},
        **_split(
            _box(collection[:1], collection[1:]),
            lambda speed: (low <= speed[:, 0]) & (speed[:, 0] <= high),
        ),
    )


def _in_square(half_width: float) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the condition that points (count, 2) lie in a square around the centre."""
    return lambda points: (np.abs(points) <= half_width).all(axis=1)


def _square(half_width: float) -> tuple[tuple[float, ...], ...]:
    """Returns the smallest and the largest corner of a square around the centre."""
    return (-half_width, -half_width), (half_width, half_width)


FAMILIES = {
    **{
        f"{domain}_any": Family(domain)
        for domain in ("walker", "cheetah", "quadruped", "jaco", "point_mass_maze")
    },
    "point_mass_goal": Family(
        "point_mass",
        {"goal": _parameter("metres", *_square(ARENA))},
        training=_on_goal_ring,
        beyond=_on_rings((0.06, 0.1), (0.2, 0.25)),
    ),
    # Collected speeds reach beyond the training range, so that its ends lie inside of the data.
    "cheetah_speed": _speed_family("cheetah", (-2.0, 3.0), (-2.6, 3.6)),
    "walker_speed": _speed_family("walker", (-1.0, 2.5), (-1.3, 2.8)),
    "quadruped_speed": _speed_family("quadruped", (-1.0, 1.5), (-1.3, 1.8)),
    # Training goals lie in the rooms, those beyond in the gaps between them.
    "point_mass_maze_goal": Family(
        "point_mass_maze",
        {
            "goal": _parameter(
                "metres", *_square(ARENA), fits=maze.is_free, allowed="outside of the walls"
            )
        },
        **_split(_where(_box(*_square(0.28)), maze.is_free), maze.in_a_room),
    ),
    "jaco_goal": Family(
        "jaco",
        {"goal": _parameter("metres", *_square(0.2))},
        **_split(_box(*_square(0.15)), _in_square(0.11)),
    ),
}
