"""Names tasks that are environments of gymnasium, of which only sizes and lengths are known here.

Their observations are vectors, their actions have bounds, and only a time limit ends an episode.
This module loads gymnasium when a task is looked at, not when it is named.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

import numpy as np

from envs.drawing import without_drawing_library

if TYPE_CHECKING:
    import gymnasium

PREFIX = "gymnasium:"
"""Stands before an environment's id, as in `gymnasium:HalfCheetah-v5`."""


class Bounds(NamedTuple):
    """Describes the vectors of an environment, and the length of its episodes.

    Attributes:
        observation_low: (O,) the smallest value of each entry, -inf where there is none.
        observation_high: (O,) the largest.
        action_low: (A,) the smallest value of each number of an action.
        action_high: (A,) the largest.
        length: T, steps of an episode.
    """

    observation_low: np.ndarray
    observation_high: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray
    length: int


def is_gymnasium(name: str) -> bool:
    """Tells whether the name of a task or a domain is that of an environment of gymnasium."""
    return name.startswith(PREFIX)


def folder_of(domain: str) -> str:
    """Returns the name of the folder of a domain's data: ids may hold slashes."""
    return quote(domain, safe=":") if is_gymnasium(domain) else domain


def domain_in(folder: str) -> str | None:
    """Returns the environment that a folder's name names; None if it names none."""
    return unquote(folder) if is_gymnasium(folder) else None


def load_module(name: str) -> None:
    """Imports the module of a task `gymnasium:<module>:<id>`, which may register a hidden task.

    A module that is not there is reported by `make_environment`, as any unknown environment is.

    Raises:
        ValueError: the module's name is relative.
    """
    module, colon, _ = name.removeprefix(PREFIX).partition(":")
    if module.startswith("."):
        allowed = "the module's whole name, without a dot before it"
        raise ValueError(f"task {name!r}: {module!r} is relative; allowed: {allowed}")
    if colon:
        with suppress(ModuleNotFoundError):
            import_module(module)


def make_environment(name: str, render_mode: str | None = None) -> gymnasium.Env:
    """Makes an environment as it was registered.

    Args:
        name: of the task.
        render_mode: of gymnasium. An environment that draws nothing loads no drawing library.

    Raises:
        ValueError: gymnasium knows no such environment, or a package that it needs is missing.
    """
    import gymnasium  # which naming a task must not load

    identifier = name.removeprefix(PREFIX)
    try:
        if render_mode is not None:
            return gymnasium.make(identifier, render_mode=render_mode)
        with without_drawing_library():
            return gymnasium.make(identifier)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"task {name!r}: {said}; allowed: {PREFIX}<id> of an environment that gymnasium knows, "
            f"or {PREFIX}<module>:<id> of one that a module of yours registers"
        ) from error


@lru_cache
def bounds(name: str) -> Bounds:
    """Makes an environment, and returns its bounds and the length of its episodes.

    Raises:
        ValueError: there is no such environment, or it is of another kind than is supported here.
    """
    environment = make_environment(name)
    try:
        observation, action = environment.observation_space, environment.action_space
        _check_vector(name, "observations", observation)
        _check_vector(name, "actions", action)
        low, high = action.low, action.high
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            allowed = "finite low and high, low below high"
            raise ValueError(f"task {name!r}: actions have no range; allowed: {allowed}")
        length = environment.spec.max_episode_steps
        if length is None:
            raise ValueError(
                f"task {name!r}: has no time limit; allowed: environments of a fixed length, "
                "registered with max_episode_steps"
            )
        ends = (observation.low, observation.high, action.low, action.high)
        return Bounds(*(end.astype(np.float64) for end in ends), int(length))
    finally:
        environment.close()


def environment_json(name: str) -> str | None:
    """Returns how gymnasium describes an environment; None where that cannot be written as JSON."""
    environment = make_environment(name)
    try:
        return environment.spec.to_json()
    except TypeError:  # it was registered with a class or a function
        return None
    finally:
        environment.close()


def _check_vector(name: str, what: str, space: gymnasium.Space) -> None:
    """Raises a ValueError unless a space holds vectors of floats."""
    import gymnasium  # which naming a task must not load

    is_box = isinstance(space, gymnasium.spaces.Box)
    if not is_box or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
        advice = "; gymnasium.wrappers.FlattenObservation makes one" if "obs" in what else ""
        raise ValueError(
            f"task {name!r}: {what} are {space}; allowed: a Box of floats of shape (n,){advice}"
        )
