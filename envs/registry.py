"""Which tasks exist: names, parameters, sizes. No physics here.

The 31 single tasks are those of URLB (Laskin et al. 2021, arXiv 2110.15191) and ExoRL (Yarats et
al. 2022, arXiv 2201.13425). A family is a hidden task: which of its members an episode pays for is
never observed, so only rewards reveal it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

GOAL_RING = 0.15  # metres from the centre at which the goals of point_mass_goal lie
GOAL_RADIUS = (
    0.045  # metres around such a goal that pay in full, and over which the reward then falls to 0.1
)
ARENA = 0.29  # metres: the point mass's joints end here


class Spec(NamedTuple):
    """Sizes of a task's vectors, and agent steps T of an episode (which has T + 1 rows)."""

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
_MODES = {
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse"),
    "cheetah": ("run", "run_backward", "flip", "flip_backward"),
    "walker": ("stand", "walk", "run", "flip"),
    "quadruped": ("walk", "run", "stand", "jump", "roll", "roll_fast"),
    "hopper": ("stand", "hop", "hop_backward", "flip", "flip_backward"),
    "jaco": _CORNERS,
    "point_mass_maze": _CORNERS,
}
_DOMAIN_OF = {f"{domain}_{mode}": domain for domain, modes in _MODES.items() for mode in modes}
_FAMILY_DOMAINS = {
    f"{domain}_any": domain
    for domain in ("walker", "cheetah", "quadruped", "jaco", "point_mass_maze")
}
_FAMILY_DOMAINS["point_mass_goal"] = "point_mass"


class Params(Mapping[str, tuple[float, ...]]):
    """A hashable mapping from a parameter's name to its value."""

    def __init__(self, values: Mapping[str, tuple[float, ...]] | None = None) -> None:
        """Keep a sorted copy of `values`."""
        self._items = tuple(sorted((values or {}).items()))

    def __getitem__(self, key: str) -> tuple[float, ...]:
        """The value of parameter `key`."""
        return dict(self._items)[key]

    def __iter__(self) -> Iterator[str]:
        """Names of the parameters, sorted."""
        return iter(dict(self._items))

    def __len__(self) -> int:
        """How many parameters are set."""
        return len(self._items)

    def __hash__(self) -> int:
        """Equal mappings hash alike."""
        return hash(self._items)

    def __repr__(self) -> str:
        """As a dict."""
        return repr(dict(self._items))


@dataclass(frozen=True)
class Task:
    """What an episode pays for: a name, and parameters where the name is a family with any."""

    name: str
    params: Params = field(default_factory=Params)

    @property
    def id(self) -> str:
        """Unique among tasks: `walker_walk`, `point_mass_goal(goal=0.106066,-0.106066)`."""
        if not self.params:
            return self.name
        values = ";".join(
            f"{key}={','.join(f'{number:.6g}' for number in value)}"
            for key, value in self.params.items()
        )
        return f"{self.name}({values})"

    @property
    def domain(self) -> str:
        """The body whose physics this task uses; also the first folder of its buffers."""
        return _DOMAIN_OF.get(self.name) or _FAMILY_DOMAINS[self.name]

    @property
    def hidden(self) -> bool:
        """Whether this is a family, of which a member has yet to be drawn."""
        return self.name in _FAMILY_DOMAINS and not self.params


def unknown(kind: str, value: object, allowed: list[str] | tuple[str, ...]) -> ValueError:
    """The error for a `value` that is none of `allowed`: it names the nearest of them."""
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
    hint = f"; nearest match: {near[0]!r}" if near else ""
    return ValueError(f"{kind} {value!r} is unknown{hint}; allowed: {', '.join(allowed)}")


def tasks() -> tuple[str, ...]:
    """Names of all tasks, single ones first, then the families."""
    return tuple(_DOMAIN_OF) + tuple(_FAMILY_DOMAINS)


def families() -> tuple[str, ...]:
    """Names of the hidden-task families."""
    return tuple(_FAMILY_DOMAINS)


def domains() -> tuple[str, ...]:
    """Names of all domains."""
    return tuple(_SPECS)


def task(name: str | Task, **params: Any) -> Task:
    """The task called `name`; a Task passes through.

    Args:
        name: one of `tasks()`.
        **params: `goal=(x, y)` in metres for `point_mass_goal`; rounded to micrometres, so that
            equal ids are equal tasks.

    Raises:
        ValueError: unknown name or parameter, or a goal outside the arena.
    """
    if isinstance(name, Task):
        if params:
            raise ValueError(
                f"task {name.id!r} is already made: parameters {sorted(params)} belong with a name"
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
        raise ValueError(
            f"task {name!r}: {key}={value!r} must be two numbers (x, y) between {-ARENA} and {ARENA} metres"
        )
    return round(float(numbers[0]), 6), round(float(numbers[1]), 6)


def spec(name: str | Task) -> Spec:
    """Sizes of the task's observation, action and physics vectors, and the agent steps of its
    episodes.
    """
    return domain_spec(task(name).domain)


def domain_spec(domain: str) -> Spec:
    """Returns what `spec` does, by the name of a domain.

    Raises:
        ValueError: unknown domain.
    """
    if domain not in _SPECS:
        raise unknown("domain", domain, domains())
    return _SPECS[domain]


def members(family: str | Task) -> list[Task]:
    """The tasks of a family with a finite number of them; of a single task, itself."""
    family = task(family)
    if family.name == "point_mass_goal":
        raise ValueError(
            "task 'point_mass_goal' has infinitely many members: draw them with draw_tasks or training_tasks"
        )
    if not family.hidden:
        return [family]
    return [Task(f"{family.domain}_{mode}") for mode in _MODES[family.domain]]


def draw_tasks(name: str | Task, count: int, rng: np.random.Generator) -> list[Task]:
    """Draw the tasks of `count` episodes.

    Args:
        name: a family, whose members are drawn (every member equally often, up to one); or a single
            task, which is repeated.
        count: how many.
        rng: where the draws come from.
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
    """Distinct tasks to relabel a data set with: `count` goals, every member of a finite family, or
    the single task itself.
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
