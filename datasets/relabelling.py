"""Computes the rewards of stored states, for any task of their domain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version

import numpy as np

import envs
from datasets.fingerprint import check_unedited, fingerprint
from envs import Task
from envs.gymnasium_tasks import is_gymnasium
from envs.registry import pays_itself, unknown

MODES = ("exorl", "exact")
STORED = "stored"
"""Mode of a store in which no reward is computed: those in the episodes are taken."""


def relabel(
    physics: np.ndarray, task: str | Task, mode: str = "exorl", action: np.ndarray | None = None
) -> np.ndarray:
    """Computes the reward of `task` for each row of physics, row 0 of an episode included.

    Args:
        physics: (rows, physics size): qpos, qvel, act. Of an environment of gymnasium: (rows, O)
            observations.
        task: a single task, or a member of a family.
        mode: `exorl` leaves controls at 0, as the published benchmark does; rewards of tasks with a
            control cost are then up to 1.25 times too high. `exact` takes the row's action and
            reproduces the environment's reward.
        action: (rows, action size); only `exact` needs it.

    Returns:
        (rows,) float32.

    Raises:
        ValueError: physics of another domain, an unknown mode, a family, `exact` without actions,
            or an environment of gymnasium that pays its own rewards.
    """
    return relabel_many(physics, [envs.task(task)], mode, action)[0]


def relabel_many(
    physics: np.ndarray,
    tasks: Sequence[Task],
    mode: str = "exorl",
    action: np.ndarray | None = None,
) -> np.ndarray:
    """Computes what `relabel` does for several tasks of one domain, sharing the physics.

    Returns:
        (tasks, rows) float32.

    Raises:
        ValueError: see `relabel`.
    """
    # Loads MuJoCo, which a check of a command line does not wait for.
    from envs.rewards import reward_function, stack_params

    for task in tasks:
        check_single(task)
    readings = _readings(physics, tasks[0], mode, action)
    rewards = [reward_function(task)(readings, **stack_params([task])) for task in tasks]
    return np.stack(rewards).astype(np.float32)


def measure_many(
    physics: np.ndarray,
    tasks: Sequence[Task],
    mode: str = "exorl",
    action: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Computes what is kept on disk of rows of physics, for each of several tasks of one domain.

    Args:
        physics: (rows, physics size).
        tasks: single tasks, and families with parameters.
        mode: see `relabel`.
        action: (rows, action size); only `exact` needs it.

    Returns:
        For each task: its reward, (rows,) float32; for a family, (rows, numbers) float64, from
        which the rewards of its members follow.

    Raises:
        ValueError: see `relabel`.
    """
    # Loads MuJoCo, which a check of a command line does not wait for.
    from envs.rewards import family_reward, reward_function

    readings = _readings(physics, tasks[0], mode, action)
    return [
        family.measure(readings)
        if (family := family_reward(task))
        else reward_function(task)(readings).astype(np.float32)
        for task in tasks
    ]


def rewards_from(tasks: Sequence[Task], measured: np.ndarray, axes: int) -> np.ndarray:
    """Computes rewards of members of one family from what `measure_many` computed.

    Args:
        tasks: the members; they lie along the first axis of the result.
        measured: (tasks or 1, ..., numbers).
        axes: number of axes between the first and the last.

    Returns:
        (tasks, ...) float32.
    """
    # Loads MuJoCo, which a check of a command line does not wait for.
    from envs.rewards import family_reward, stack_params

    params = {
        key: value.reshape(len(tasks), *axes * (1,), *value.shape[1:])
        for key, value in stack_params(tasks).items()
    }
    return family_reward(tasks[0]).reward(measured, **params).astype(np.float32)


def check_single(task: Task) -> None:
    """Raises a ValueError if a task is a family, which has no reward of its own."""
    if task.hidden:
        raise ValueError(f"task {task.id!r} is a family: rewards belong to one of its members")


def _readings(
    physics: np.ndarray, task: Task, mode: str, action: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns what the rewards of a task's domain read of states, their controls included.

    Raises:
        ValueError: see `relabel`.
    """
    # Loads MuJoCo, which a check of a command line does not wait for.
    from envs.readings import readings_of

    if pays_itself(task):
        raise ValueError(
            f"task {task.id!r}: its environment pays, so no reward is computed; allowed: mode "
            f"{STORED!r} of a store, which takes those in the episodes"
        )
    spec, domain, physics = envs.spec(task), task.domain, np.asarray(physics)
    if physics.ndim != 2 or physics.shape[1] != spec.physics:
        raise ValueError(
            f"{domain}: physics must have shape (rows, {spec.physics}), got {physics.shape}"
        )
    control = _control(mode, action, (len(physics), spec.action))
    if is_gymnasium(domain):  # its observations stand for states
        return {"observation": physics}
    return {**readings_of(domain, physics), "ctrl": control}


def made_by(task: Task) -> dict[str, str]:
    """Returns what determines the rewards of `task`: its parameters, the code, the simulator."""
    return {"task": repr(task), **_code(task.domain)}


@lru_cache
def _code(domain: str) -> dict[str, str]:
    libraries = {name: version(name) for name in ("mujoco", "dm_control")}
    return {"code": fingerprint(*_modules(domain)), **libraries}


def _modules(domain: str) -> tuple[str, ...]:
    # For a family of gymnasium, observations are kept, and none of its code computes them.
    own = () if is_gymnasium(domain) else (f"envs.domains.{domain}",)
    return "datasets.relabelling", *own


def check_code(domain: str) -> None:
    """Loads the code of a domain's rewards, and checks that `made_by` describes this very code.

    Raises:
        ValueError: it was edited since this process started.
    """
    for module in ("envs.readings", "envs.rewards", *_modules(domain)):
        import_module(module)
    check_unedited(*_modules(domain))


def _control(mode: str, action: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    if mode not in MODES:
        raise unknown("relabel mode", mode, MODES)
    if mode == "exorl":
        return np.zeros(shape)
    if action is None or np.shape(action) != shape:
        given = np.shape(action) or None
        raise ValueError(
            f"relabel mode 'exact' needs the rows' actions, of shape {shape}, got {given}"
        )
    return np.asarray(action, np.float64)
