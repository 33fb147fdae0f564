"""Lists the tasks: their names, parameters and sizes, without physics.

The 31 single tasks are those of URLB (Laskin et al. 2021, arXiv 2110.15191) and ExoRL (Yarats et
al. 2022, arXiv 2201.13425). A family is a hidden task: an episode rewards one of its members, which
is never observed, so that only rewards reveal it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

GOAL_RING = 0.15  # metres from the centre at which the goals of point_mass_goal lie
# Metres around such a goal that earn the full reward, and over which the reward then falls to 0.1.
GOAL_RADIUS = 0.045
ARENA = 0.29  # metres: the point mass's joints end here


class Spec(NamedTuple):
    """Describes the sizes of a task's vectors and the length of its episodes.

    Attributes:
        observation: numbers of an observation.
        action: numbers of an action.
        physics: numbers of a stored state.
        length: agent steps T of an episode, which has T + 1 rows.
    """

    observation: int
    action: int
    physics: int
    length: int


_SPECS = {
    "cartpole": Spec(5, 1, 4, 1000),
    "cheetah": Spec(17, 6, 18, 1000),
    "walker": Spec(24, 6, 18, 1000),
    "quadruped": Spec(78, 12, 57, 1000),
    "hopper": Spec(15, 4, 14, 1000),
    "jaco": Spec(42, 9, 18, 250),
    "point_mass_maze": Spec(4, 2, 4, 1000),
    "point_mass": Spec(4, 2, 4, 12),
}
_CORNERS = ("reach_top_left", "reach_top_right", "reach_bottom_left", "reach_bottom_right")
_BEHAVIOURS = {
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse"),
    "cheetah": ("run", "run_backward", "flip", "flip_backward"),
    "walker": ("stand", "walk", "run", "flip"),
    "quadruped": ("walk", "run", "stand", "jump", "roll", "roll_fast"),
    "hopper": ("stand", "hop", "hop_backward", "flip", "flip_backward"),
    "jaco": _CORNERS,
    "point_mass_maze": _CORNERS,
}
_DOMAIN_OF = {
    f"{domain}_{behaviour}": domain
    for domain, behaviours in _BEHAVIOURS.items()
    for behaviour in behaviours
}
_FAMILY_DOMAINS = {
    f"{domain}_any": domain
    for domain in ("walker", "cheetah", "quadruped", "jaco", "point_mass_maze")
}
_FAMILY_DOMAINS["point_mass_goal"] = "point_mass"


class Params(Mapping[str, tuple[float, ...]]):
    """Maps parameters' names to their values, and can be hashed."""

    def __init__(self, values: Mapping[str, tuple[float, ...]] | None = None) -> None:
        """Keeps a sorted copy of `values`."""
        self._items = tuple(sorted((values or {}).items()))

    def __getitem__(self, key: str) -> tuple[float, ...]:
        """Returns the value of parameter `key`."""
        return dict(self._items)[key]

    def __iter__(self) -> Iterator[str]:
        """Iterates over the sorted names."""
        return iter(dict(self._items))

    def __len__(self) -> int:
        """Returns the number of parameters."""
        return len(self._items)

    def __hash__(self) -> int:
        """Returns the same number for equal mappings."""
        return hash(self._items)

    def __repr__(self) -> str:
        """Formats the mapping as a dict."""
        return repr(dict(self._items))


@dataclass(frozen=True)
class Task:
    """Names what an episode rewards: a single task, a family, or a member of a family.

    Attributes:
        name: one of `tasks()`.
        params: the parameters of a family's member; empty for single tasks and whole families.
    """

    name: str
    params: Params = field(default_factory=Params)

    @property
    def id(self) -> str:
        """Returns a unique name: `walker_walk`, `point_mass_goal(goal=0.106066,-0.106066)`."""
        if not self.params:
            return self.name
        values = ";".join(
            f"{key}={','.join(f'{number:.6g}' for number in value)}"
            for key, value in self.params.items()
        )
        return f"{self.name}({values})"

    @property
    def domain(self) -> str:
        """Returns the body whose physics this task uses; also the first folder of its buffers."""
        return _DOMAIN_OF.get(self.name) or _FAMILY_DOMAINS[self.name]

    @property
    def behaviour(self) -> str:
        """Returns the name without its domain's: `walk` of `walker_walk`."""
        return self.name.removeprefix(f"{self.domain}_")

    @property
    def hidden(self) -> bool:
        """Tells whether this is a family, so a member has yet to be drawn."""
        return self.name in _FAMILY_DOMAINS and not self.params


def unknown(kind: str, value: object, allowed: list[str] | tuple[str, ...]) -> ValueError:
    """Returns the error for a `value` that is not among `allowed`; it names the nearest of them."""
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
    hint = f"; nearest match: {near[0]!r}" if near else ""
    return ValueError(f"{kind} {value!r} is unknown{hint}; allowed: {', '.join(allowed)}")


def tasks() -> tuple[str, ...]:
    """Returns the names of all tasks: first the single ones, then the families."""
    return tuple(_DOMAIN_OF) + tuple(_FAMILY_DOMAINS)


def families() -> tuple[str, ...]:
    """Returns the names of the families of hidden tasks."""
    return tuple(_FAMILY_DOMAINS)


def domains() -> tuple[str, ...]:
    """Returns the names of all domains."""
    return tuple(_SPECS)


def task(name: str | Task, **params: Any) -> Task:
    """Returns the task called `name`; a Task passes through.

    Args:
        name: one of `tasks()`.
        **params: `goal=(x, y)` in metres for `point_mass_goal`; rounded to micrometres, so that
            equal ids are equal tasks.

    Raises:
        ValueError: unknown name or parameter, or a goal outside the arena.
    """
    if isinstance(name, Task):
        if params:
            given = sorted(params)
            raise ValueError(
                f"task {name.id!r} is already made: parameters {given} belong with a name"
            )
        return name
    if name not in tasks():
        raise unknown("task", name, tasks())
    allowed = ("goal",) if name == "point_mass_goal" else ()
    for key in params:
        if key not in allowed:
            raise ValueError(
                f"task {name!r} takes no parameter {key!r}; allowed: {', '.join(allowed) or 'none'}"
            )
    return Task(name, Params({key: _position(name, key, value) for key, value in params.items()}))


def _position(name: str, key: str, value: Any) -> tuple[float, float]:
    numbers = np.asarray(value, dtype=float)
    if numbers.shape != (2,) or not np.all(np.abs(numbers) <= ARENA):
        allowed = f"two numbers (x, y) between {-ARENA} and {ARENA} metres"
        raise ValueError(f"task {name!r}: {key}={value!r} must be {allowed}")
    return round(float(numbers[0]), 6), round(float(numbers[1]), 6)


def spec(name: str | Task) -> Spec:
    """Returns the sizes of a task's vectors and the length of its episodes."""
    return domain_spec(task(name).domain)


def domain_spec(domain: str) -> Spec:
    """Returns what `spec` returns, for the tasks of a domain.

    Raises:
        ValueError: unknown domain.
    """
    if domain not in _SPECS:
        raise unknown("domain", domain, domains())
    return _SPECS[domain]


def members(family: str | Task) -> list[Task]:
    """Lists the tasks of a finite family; of a single task, only the task itself.

    Raises:
        ValueError: the family has infinitely many members.
    """
    family = task(family)
    if family.name == "point_mass_goal":
        raise ValueError(
            "task 'point_mass_goal' has infinitely many members: "
            "draw them with draw_tasks or training_tasks"
        )
    if not family.hidden:
        return [family]
    return [Task(f"{family.domain}_{behaviour}") for behaviour in _BEHAVIOURS[family.domain]]


def draw_tasks(name: str | Task, count: int, rng: np.random.Generator) -> list[Task]:
    """Draws the tasks of `count` episodes.

    Args:
        name: a family, whose members are drawn; or a single task, which is repeated. Each member
            of a finite family is drawn equally often, give or take one.
        count: number of episodes.
        rng: the source of the draws.
    """
    family = task(name)
    if not family.hidden:
        return [family] * count
    if family.name == "point_mass_goal":
        return [_goal(angle) for angle in rng.uniform(-math.pi, math.pi, count)]
    pool = members(family)
    rounds = [rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))]
    return [pool[index] for index in np.concatenate(rounds)[:count]] if count else []


def training_tasks(name: str | Task, count: int, rng: np.random.Generator) -> list[Task]:
    """Returns distinct tasks to relabel a data set with.

    Args:
        name: a task. `point_mass_goal` gives goals that are drawn, another family all its members,
            and a single task itself.
        count: number of goals.
        rng: the source of the draws.
    """
    family = task(name)
    if family.name == "point_mass_goal" and family.hidden:
        drawn: dict[Task, None] = {}
        while len(drawn) < count:
            drawn.update(dict.fromkeys(draw_tasks(family, count - len(drawn), rng)))
        return list(drawn)
    return members(family) if family.hidden else [family]


def _goal(angle: float) -> Task:
    return task("point_mass_goal", goal=(GOAL_RING * math.cos(angle), GOAL_RING * math.sin(angle)))
