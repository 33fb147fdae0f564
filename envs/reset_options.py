"""Checks the arguments of `reset`, and draws what episodes start with.

The arguments are seeds, a mask of environments, and members of families.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs import registry
from envs.family_table import FAMILIES
from envs.registry import Task
from envs.task_draws import draw_tasks

SEEDS = 2**32  # numpy's RandomState, from which dm_control starts episodes, takes smaller seeds
_TASK_STREAM = 1  # keeps the draw of a hidden task apart from the draw of a start


def _seeds_of(given: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """Returns a seed for each of `count` environments; None where its stream goes on.

    Args:
        given: the seed of environment 0, counting up; or one for each; or None for all.
        count: number of environments.

    Raises:
        ValueError: it is neither, or a seed is not a whole number from 0 to 2**32 - 1.
    """
    if given is None:
        return [None] * count
    if isinstance(given, int | np.integer):
        seeds = [int(given) + index for index in range(count)]
    else:
        seeds = list(given) if np.ndim(given) == 1 else [given]
    numbers = [seed for seed in seeds if seed is not None]
    valid = all(isinstance(seed, int | np.integer) and 0 <= seed < SEEDS for seed in numbers)
    if len(seeds) != count or not valid:
        raise ValueError(
            f"seed={reprlib.repr(given)} does not fit {count} environments: give one integer, "
            "which counts up, or one for each; all from 0 to 2**32 - 1"
        )
    # Environments of gymnasium take no numbers of numpy.
    return [seed if seed is None else int(seed) for seed in seeds]


def random_streams(seed: int) -> tuple[np.random.RandomState, np.random.Generator]:
    """Returns the sources of an environment's starts, and of the members of its family."""
    return np.random.RandomState(seed), np.random.default_rng([seed, _TASK_STREAM])


class EpisodeDraws:
    """Draws starts and tasks for a vector of environments, each from random streams of its own.

    Attributes:
        starts: the source of each environment's starts.
        tasks: what each environment rewards; until the first reset, any member stands for a family.
    """

    def __init__(self, families: Sequence[Task], seed: int | None) -> None:
        """Makes the streams, and draws tasks for the time before the first reset.

        Args:
            families: of each environment; or the single task that it rewards.
            seed: of environment 0, counting up; None draws one.
        """
        if seed is None:
            seed = int(np.random.default_rng().integers(SEEDS - len(families)))
        seeds, rng = _seeds_of(seed, len(families)), np.random.default_rng(seed)
        self.starts, self._members = map(list, zip(*map(random_streams, seeds), strict=True))
        self.tasks = [draw_tasks(family, 1, rng)[0] for family in families]
        self._families = list(families)
        self._first_seeds: list[int | None] | None = seeds  # None after the first reset

    def reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None
    ) -> tuple[np.ndarray, list[int | None]]:
        """Starts new streams where there is a seed, and draws or sets the tasks.

        Args:
            seed: of a vector's `reset`.
            options: of a vector's `reset`.

        Returns:
            (environments,) bool, which of them start; and their seeds, None where a stream goes on.

        Raises:
            ValueError: options that do not fit the task, a wrong mask or seed.
            gymnasium.error.ResetNeeded: a mask in the first reset leaves some out.
        """
        mask, options = _split_reset_mask(options, len(self._families))
        seeds = _seeds_of(seed, len(self._families))
        if self._first_seeds:
            if not mask.all():
                from gymnasium.error import ResetNeeded  # here: data are read without gymnasium

                raise ResetNeeded("the first reset must be of all environments")
            pairs = zip(seeds, self._first_seeds, strict=True)
            seeds = [first if given is None else given for given, first in pairs]
        # All options are checked before anything changes.
        chosen, tasks = _chosen_members(self._families, mask, options), list(self.tasks)
        self._first_seeds = None
        for index in np.flatnonzero(mask):
            if seeds[index] is not None:
                self.starts[index], self._members[index] = random_streams(seeds[index])
            family, stream = self._families[index], self._members[index]
            tasks[index] = chosen.get(index) or draw_tasks(family, 1, stream)[0]
        self.tasks = tasks
        return mask, seeds


def _split_reset_mask(
    options: dict[str, Any] | None, count: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Splits reset's options into the mask and the others.

    Returns:
        (environments,) bool, the environments to reset; and the other options.

    Raises:
        ValueError: the options are no dict; or the mask is no array of bools, one for each
            environment, or none is True.
    """
    if not isinstance(options, Mapping | None):
        raise ValueError(f"reset options must be a dict or None, got {reprlib.repr(options)}")
    others = dict(options or {})
    if "reset_mask" not in others:
        return np.ones(count, bool), others
    mask = others.pop("reset_mask")
    valid = isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (count,)
    if not valid or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must be a numpy array of {count} bools, "
            f"one of them True at least, got {reprlib.repr(mask)}"
        )
    return mask.copy(), others


def _chosen_members(
    families: Sequence[Task], mask: np.ndarray, options: dict[str, Any]
) -> dict[int, Task]:
    """Returns the members that reset's options name, by the numbers of their environments.

    Args:
        families: of each environment.
        mask: (environments,) bool, the environments to reset.
        options: of reset, without the mask.

    Raises:
        ValueError: the options do not fit the tasks, or name no member.
    """
    indices = np.flatnonzero(mask).tolist()
    if set(options) == {"tasks"}:
        given = options["tasks"]
        listed = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
        if not listed or len(given) != len(families):
            raise ValueError(
                f"reset option 'tasks' needs {len(families)} tasks, one for each environment, "
                f"got {reprlib.repr(given)}"
            )
        members = {index: registry.task(given[index]) for index in indices}
        for index, member in members.items():
            _check_member(families[index], member)
        return members
    if not options:
        return {}
    named = {family: _named_member(family, options) for family in {families[i] for i in indices}}
    return {index: named[families[index]] for index in indices}


def _check_member(family: Task, member: Task) -> None:
    """Raises a ValueError unless a task is the given one, or a member of the given family."""
    if registry.has_parameters(family):
        fits = member.name == family.name and not member.hidden
    else:
        fits = member in registry.members(family)
    if not fits:
        raise ValueError(f"task {family.id!r}: reset option 'tasks' has {member.id!r}, no member")


def _named_member(family: Task, options: dict[str, Any]) -> Task:
    """Returns the member of a family that reset's options name.

    Raises:
        ValueError: the options do not fit the task, or name no member.
    """
    keys = set(FAMILIES[family.name].parameters if family.hidden else ()) or {"task"}
    if not family.hidden or set(options) != keys:
        allowed = ", ".join(f"{key!r}: ..." for key in sorted(keys))
        allowed = f"{{{allowed}}}" if family.hidden else "none"
        raise ValueError(
            f"task {family.id!r}: reset options {sorted(options)} are unknown; allowed: {allowed}"
        )
    if registry.has_parameters(family):
        return registry.task(family.name, **options)
    names = [member.name for member in registry.members(family)]
    if options["task"] not in names:
        raise registry.unknown(f"task {family.id!r}: member", options["task"], names)
    return registry.task(options["task"])
