"""Lists the tasks: their names, parameters and sizes, without physics.

The 31 single tasks are those of URLB (Laskin et al. 2021, arXiv 2110.15191) and ExoRL (Yarats et
al. 2022, arXiv 2201.13425). A family is a hidden task: an episode rewards one of its members, which
is never observed, so that only rewards reveal it. `envs.family_table` has the table of them. Any
environment of gymnasium is a task too, `gymnasium:<id>`; see `envs.gymnasium_tasks`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from envs import gymnasium_tasks
from envs.family_table import FAMILIES, Value
from envs.gymnasium_tasks import is_gymnasium


class Spec(NamedTuple):
    """Describes the sizes of a task's vectors and the length of its episodes.

    Attributes:
        observation: numbers of an observation.
        action: numbers of an action.
        physics: numbers of a stored state; 0 where none is stored.
        length: environment steps T of an episode, which has T + 1 rows.
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
_ID = re.compile(r"([^()]+)\((.+)\)")  # cheetah_speed(speed=1.5)


class Params(Mapping[str, Value]):
    """Maps parameters' names to their values, and can be hashed."""

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        """Keeps a sorted copy of `values`."""
        self._items = tuple(sorted((values or {}).items()))

    def __getitem__(self, key: str) -> Value:
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
        name: one of `tasks()`, or an environment of gymnasium.
        params: the parameters of a family's member; empty for single tasks and whole families.
    """

    name: str
    params: Params = field(default_factory=Params)

    @property
    def id(self) -> str:
        """Returns a unique name, from which `task` makes an equal task.

        Examples are `walker_walk` and `point_mass_goal(goal=0.106066,-0.106066)`.
        """
        if not self.params:
            return self.name
        values = ";".join(
            f"{key}={','.join(f'{number:.6g}' for number in np.atleast_1d(value))}"
            for key, value in self.params.items()
        )
        return f"{self.name}({values})"

    def __str__(self) -> str:
        """Returns the id."""
        return self.id

    @property
    def domain(self) -> str:
        """Returns the body whose physics this task uses; also the first folder of its buffers."""
        if is_gymnasium(self.name):
            return self.name
        if self.name in _DOMAIN_OF:
            return _DOMAIN_OF[self.name]
        if self.name in FAMILIES:
            return FAMILIES[self.name].domain
        raise unknown("task", self.name, tasks())

    @property
    def behaviour(self) -> str:
        """Returns the name without its domain's: `walk` of `walker_walk`."""
        return self.name.removeprefix(f"{self.domain}_")

    @property
    def hidden(self) -> bool:
        """Tells whether this is a family, so a member has yet to be drawn."""
        return self.name in FAMILIES and not self.params


def unknown(kind: str, value: object, allowed: list[str] | tuple[str, ...]) -> ValueError:
    """Returns the error for a `value` that is not among `allowed`; it names the nearest of them."""
    near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
    hint = f"; nearest match: {near[0]!r}" if near else ""
    return ValueError(f"{kind} {value!r} is unknown{hint}; allowed: {', '.join(allowed)}")


def tasks() -> tuple[str, ...]:
    """Returns the names of all tasks of ours: first the single ones, then the families."""
    return tuple(_DOMAIN_OF) + families()


def families() -> tuple[str, ...]:
    """Returns the names of our families of hidden tasks."""
    return tuple(name for name in FAMILIES if not is_gymnasium(name))


def families_with_parameters() -> tuple[str, ...]:
    """Returns the names of the families whose members differ by parameters, users' included."""
    return tuple(name for name, family in FAMILIES.items() if family.parameters)


def domains() -> tuple[str, ...]:
    """Returns the names of all domains."""
    return tuple(_SPECS)


def task(name: str | Task, **params: Any) -> Task:
    """Returns the task called `name`; a Task passes through.

    Args:
        name: one of `tasks()`; a task's id, such as `cheetah_speed(speed=1.5)`; or an environment
            of gymnasium, such as `gymnasium:HalfCheetah-v5`, which `spec` and `make` look for.
        **params: the parameters of a family's member: `speed=1.5` in metres a second,
            `goal=(x, y)` in metres. They are rounded to six digits, as ids show them, so that equal
            ids are equal tasks.

    Raises:
        ValueError: unknown name or parameter, or a value that the family does not allow.
    """
    if isinstance(name, Task):
        if params:
            given = sorted(params)
            raise ValueError(
                f"task {name.id!r} is a Task already: parameters {given} need a task's name"
            )
        return name
    if not isinstance(name, str):
        raise unknown("task", name, tasks())
    name = str.__str__(name)  # kept rewards are known by `repr`, which differs for NumPy's strings
    if "(" in name:
        if params:
            raise ValueError(f"task {name!r} has its parameters already, got {sorted(params)} too")
        name, params = _parse_id(name)
    if is_gymnasium(name):
        gymnasium_tasks.load_module(name)
        _check_spelling(name)
    elif name not in tasks():
        raise unknown("task", name, tasks())
    known = FAMILIES[name].parameters if name in FAMILIES else {}
    for key in params:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; nearest match: {near[0]!r}" if near else ""
            allowed = ", ".join(known) or "none"
            raise ValueError(f"task {name!r} takes no parameter {key!r}{hint}; allowed: {allowed}")
    if params and (missing := known.keys() - params.keys()):
        raise ValueError(f"task {name!r} also needs {', '.join(sorted(missing))}")
    return Task(
        name,
        Params({key: known[key].check(f"task {name!r}: {key}", params[key]) for key in params}),
    )


def _check_spelling(name: str) -> None:
    """Raises a ValueError if another name of an environment of gymnasium is that of a family.

    Without the family its task would not be hidden.
    """
    same = [
        other
        for other in FAMILIES
        if is_gymnasium(other) and other.rpartition(":")[2] == name.rpartition(":")[2]
    ]
    if same and name not in same:
        raise ValueError(
            f"task {name!r}: its hidden task is registered as {same[0]!r}; allowed: the same "
            f"name in envs.register_family and here, {gymnasium_tasks.PREFIX}<module>:<id>"
        )


def _parse_id(identifier: str) -> tuple[str, dict[str, Any]]:
    """Splits an id into the name and the parameters.

    Raises:
        ValueError: it is no id.
    """
    found = _ID.fullmatch(identifier)
    try:
        name, items = found.groups()
        pairs = [item.split("=") for item in items.split(";")]
        values = {key: tuple(map(float, text.split(","))) for key, text in pairs}
        if len(values) < len(pairs):
            raise ValueError("a parameter is given twice")
        return name, {key: v[0] if len(v) == 1 else v for key, v in values.items()}
    except (AttributeError, ValueError):
        written = "'cheetah_speed(speed=1.5)' or 'point_mass_goal(goal=0.1,-0.1)'"
        raise ValueError(
            f"task {identifier!r} cannot be read; allowed: an id such as {written}"
        ) from None


def spec(name: str | Task) -> Spec:
    """Returns the sizes of a task's vectors and the length of its episodes.

    Raises:
        ValueError: an unknown task, or an environment of gymnasium that is not supported.
    """
    return domain_spec(task(name).domain)


def domain_spec(domain: str) -> Spec:
    """Returns what `spec` returns, for the tasks of a domain.

    Raises:
        ValueError: unknown domain, or an environment of gymnasium that is not supported.
    """
    if is_gymnasium(domain):
        found = gymnasium_tasks.bounds(domain)
        size = len(found.observation_low)
        # Rewards of a hidden task follow from observations, which then stand for states.
        state = size if domain in FAMILIES else 0
        return Spec(size, len(found.action_low), state, found.length)
    if domain not in _SPECS:
        raise unknown("domain", domain, domains())
    return _SPECS[domain]


def pays_itself(one: Task) -> bool:
    """Tells whether rewards come from an environment of gymnasium alone, so none is computed."""
    return is_gymnasium(one.name) and one.name not in FAMILIES


def has_parameters(family: Task) -> bool:
    """Tells whether this is a family whose members differ by parameters."""
    return family.hidden and bool(FAMILIES[family.name].parameters)


def parameters(tasks: Sequence[Task]) -> np.ndarray:
    """Returns the parameters' numbers of members of a family, in the order of its table.

    Returns:
        (tasks, numbers), one parameter after another.

    Raises:
        ValueError: a task is no member of a family with parameters.
    """
    for one in tasks:
        if not one.params:
            raise ValueError(f"task {one.id!r} has no parameters")
    names = FAMILIES[tasks[0].name].parameters
    return np.array([np.hstack([one.params[name] for name in names]) for one in tasks])


def members(family: str | Task) -> list[Task]:
    """Lists the tasks of a finite family; of a single task, only the task itself.

    Raises:
        ValueError: the family has infinitely many members.
    """
    family = task(family)
    if has_parameters(family):
        raise ValueError(
            f"task {family.name!r} has infinitely many members: "
            "draw them with draw_tasks or training_tasks"
        )
    if not family.hidden:
        return [family]
    return [Task(f"{family.domain}_{behaviour}") for behaviour in _BEHAVIOURS[family.domain]]
