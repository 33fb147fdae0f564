"""Draws tasks: of episodes, to train on, to hold out, and to collect data for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.family_table import FAMILIES, Sampler
from envs.registry import Task, has_parameters, members, task

_VAIN_DRAWS = 10_000  # after so many without a new task, a family is taken to have no more


def draw_tasks(name: str | Task, count: int, rng: np.random.Generator) -> list[Task]:
    """Draws the tasks of `count` episodes.

    Args:
        name: a family, whose members are drawn; or a single task, which is repeated. Each member
            of a finite family is drawn equally often, give or take one. Members of a family with
            parameters are drawn as training tasks are.
        count: number of episodes.
        rng: the source of the draws.
    """
    family = task(name)
    if not family.hidden:
        return [family] * count
    if has_parameters(family):
        return _drawn(family, FAMILIES[family.name].training, count, rng)
    pool = members(family)
    rounds = [rng.permutation(len(pool)) for _ in range(-(-count // len(pool)))]
    return [pool[index] for index in np.concatenate(rounds)[:count]] if count else []


def training_tasks(name: str | Task, count: int, rng: np.random.Generator) -> list[Task]:
    """Returns distinct tasks to relabel a data set with.

    Args:
        name: a task. A family with parameters gives members that are drawn, another family all its
            members, and a single task itself.
        count: number of members that are drawn.
        rng: the source of the draws.
    """
    family = task(name)
    if not has_parameters(family):
        return members(family)
    return _distinct(family, FAMILIES[family.name].training, count, rng, without=())


def held_out_tasks(
    name: str | Task,
    count: int,
    rng: np.random.Generator,
    training: Sequence[str | Task],
    beyond: bool = False,
) -> list[Task]:
    """Draws distinct members of a family that are no training tasks.

    Args:
        name: a family with parameters.
        count: number of members.
        rng: the source of the draws.
        training: the training tasks, none of which is drawn.
        beyond: draw from where no training task lies, such as higher speeds, instead of from
            between the training tasks.

    Raises:
        ValueError: the task has no parameters, so training knows all of its members; it draws
            nothing beyond them; there are too few members; or a training task is unknown.
    """
    family = task(name)
    if not has_parameters(family):
        raise ValueError(f"task {family.id!r} has no parameters, so no member is held out")
    row = FAMILIES[family.name]
    if beyond and row.beyond is None:
        raise ValueError(
            f"task {family.id!r} draws nothing beyond its training tasks; "
            "allowed: eval.held_out=between, or a `beyond` in envs.register_family"
        )
    return _distinct(family, row.beyond if beyond else row.training, count, rng, without=training)


def collection_tasks(name: str | Task, count: int, rng: np.random.Generator) -> list[Task]:
    """Draws the tasks that `count` collected episodes pursue; see `draw_tasks`.

    For a family with parameters they reach a little beyond the training tasks.
    """
    family = task(name)
    draw = FAMILIES[family.name].collection if family.hidden else None
    return _drawn(family, draw, count, rng) if draw else draw_tasks(family, count, rng)


def collection_params(family: Task, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the numbers of the parameters of `count` tasks, as `collection_tasks` draws tasks.

    Args:
        family: with parameters.
        count: number of tasks.
        rng: the source of the draws.

    Returns:
        (count, numbers), one parameter after another.
    """
    row = FAMILIES[family.name]
    return (row.collection or row.training)(rng, count)


def name_params(family: Task, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the parameters of many members of a family, of which only the numbers are given.

    Args:
        family: with parameters.
        numbers: (..., numbers), one parameter after another.

    Returns:
        name -> (...), or (..., numbers) for a parameter of several numbers.
    """
    parameters = FAMILIES[family.name].parameters
    ends = np.cumsum([parameter.size for parameter in parameters.values()])[:-1]
    return {
        key: part[..., 0] if part.shape[-1] == 1 else part
        for key, part in zip(parameters, np.split(numbers, ends, axis=-1), strict=True)
    }


def _drawn(family: Task, draw: Sampler, count: int, rng: np.random.Generator) -> list[Task]:
    return [task(family.name, **name_params(family, row)) for row in draw(rng, count)]


def _distinct(
    family: Task, draw: Sampler, count: int, rng: np.random.Generator, without: Sequence[str | Task]
) -> list[Task]:
    """Draws distinct members that are not among `without`.

    Raises:
        ValueError: there seem to be no more, as of goals that lie on a grid.
    """
    excluded, found, vain = set(map(task, without)), {}, 0
    while len(found) < count:
        drawn = _drawn(family, draw, count - len(found), rng)
        before = len(found)
        found.update(dict.fromkeys(one for one in drawn if one not in excluded))
        vain = 0 if len(found) > before else vain + len(drawn)
        if vain >= _VAIN_DRAWS:
            besides = f" besides the {len(excluded)} of training" if excluded else ""
            raise ValueError(
                f"task {family.id!r}: {_VAIN_DRAWS} draws found no more than {len(found)} "
                f"tasks{besides}, {count} are needed; allowed: a smaller data.tasks or eval.tasks"
            )
    return list(found)
