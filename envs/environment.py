"""Gymnasium environments on batched physics.

Episodes all last T agent steps and truncate, never terminate, so a vector of them ends in one step and needs no automatic reset.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from envs import registry
from envs.domain import load, mode
from envs.physics import Batch, Rewards
from envs.registry import Task
from envs.rendering import RENDERERS, draw

_TASK_STREAM = 1  # keeps the draw of a hidden task apart from the draw of a start


def make(task: str | Task, seed: int = 0, render_mode: str | None = None) -> gymnasium.Env:
    """One environment.

    Args:
        task: a name of `envs.tasks()` or a Task.
        seed: of the first reset, where that gives none. Episodes start where dm_control's own environment with this seed does.
        render_mode: None, or `rgb_array` (set MUJOCO_GL=egl before Python starts).
    """
    return Environment(task, seed, render_mode)


def make_vec(
    task: str | Task | Sequence[str | Task],
    num_envs: int | None = None,
    seed: int = 0,
    action_repeat: int = 1,
    horizon: int | None = None,
) -> VectorEnv:
    """Many environments of one domain that step together.

    Args:
        task: for all of them; or a sequence with one for each.
        num_envs: how many; for a sequence, its length.
        seed: environment i resets with seed + i.
        action_repeat: agent steps for which each action is held: a step of the environment is all of them, its reward their sum.
        horizon: steps of an episode; None: as many as the task's episodes last.

    Raises:
        ValueError: unknown tasks, tasks of several domains, a number that differs from the sequence's length, or more steps than
            an episode has.
    """
    if isinstance(task, str | Task):
        chosen = [registry.task(task)] * (1 if num_envs is None else num_envs)
    else:
        chosen = [registry.task(one) for one in task]
        if num_envs not in (None, len(chosen)):
            raise ValueError(f"num_envs={num_envs} differs from the number of tasks given, {len(chosen)}")
    if not chosen:
        raise ValueError("num_envs=0: at least one environment is needed")
    domains = sorted({one.domain for one in chosen})
    if len(domains) > 1:
        raise ValueError(f"tasks of one vector must share a domain, these are of {', '.join(domains)}")
    return VectorEnvironment(chosen, seed, action_repeat, horizon)


class VectorEnvironment(VectorEnv):
    """Environments of one domain; `tasks` says what each pays for in this episode (a family draws a member at every reset)."""

    def __init__(self, tasks: Sequence[Task], seed: int, action_repeat: int = 1, horizon: int | None = None) -> None:
        """See `make_vec`."""
        self._given = list(tasks)
        self._domain = tasks[0].domain
        self._spec = registry.spec(tasks[0])
        self._repeat, self._length = action_repeat, horizon or self._spec.length // action_repeat
        if not 1 <= self._length * action_repeat <= self._spec.length:
            said = f"action_repeat={action_repeat} with horizon={horizon}"
            raise ValueError(f"{said} does not fit the {self._spec.length} agent steps of an episode of {tasks[0].id}")
        self.num_envs = len(tasks)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self._spec.observation,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self._spec.action,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self._observe = load(self._domain).observe
        self.tasks = registry.draw_tasks(self._given[0], self.num_envs, np.random.default_rng(seed))  # until the first reset
        self._batch = Batch(self._domain, self._modes())
        self._seed_streams([seed + index for index in range(self.num_envs)])
        self._elapsed: int | None = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment.

        Args:
            seed: of environment 0, counting up; or one for each. None goes on with the streams in use.
            options: `{"task": name}` (a member of the family) or `{"goal": (x, y)}`, for all; otherwise families draw.

        Raises:
            ValueError: options that do not fit the task.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._refuse_closed()
        if seed is not None:
            self._seed_streams([seed + index for index in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed)
        chosen = {_chosen(given, options) for given in set(self._given)} if options else {None}
        self.tasks = [self._member(index) if one is None else one for index in range(self.num_envs) for one in chosen]
        self._rewards = Rewards(self.tasks)
        self._batch.start(self._modes(), self._starts)
        self._elapsed = 0
        return self._observe(self._batch.readings).astype(np.float32), {"physics": self._batch.physics.copy()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold `action`, (environments, action size) in [-1, 1], for `action_repeat` agent steps, whose rewards are summed.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
            gymnasium.error.ResetNeeded: the episodes are over.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._refuse_closed()
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action must be finite and of shape {self.action_space.shape}, got shape {action.shape}")
        if self._elapsed is None or self._elapsed >= self._length:
            raise gymnasium.error.ResetNeeded(f"an episode lasts {self._length} steps: call reset before this step")
        reward = np.zeros(self.num_envs)
        for _ in range(self._repeat):
            self._batch.step(action)
            reward += self._rewards(self._batch.readings, action)
        self._elapsed += 1
        over = self._elapsed == self._length
        if over:
            self._batch.check()
        observation, ended = self._observe(self._batch.readings).astype(np.float32), np.full(self.num_envs, over)
        return observation, reward, np.zeros(self.num_envs, bool), ended, {"physics": self._batch.physics.copy()}

    def close_extras(self, **kwargs: Any) -> None:
        """Free the simulations; called by `close`."""
        self._batch.close()
        del self._batch

    def _refuse_closed(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("this environment was closed: make another")

    def _modes(self) -> list[str]:
        return [mode(task.name, self._domain) for task in self.tasks]

    def _seed_streams(self, seeds: Sequence[int]) -> None:
        self._starts = [np.random.RandomState(seed) for seed in seeds]
        self._draws = [np.random.default_rng([seed, _TASK_STREAM]) for seed in seeds]

    def _member(self, index: int) -> Task:
        return registry.draw_tasks(self._given[index], 1, self._draws[index])[0]


def _chosen(given: Task, options: dict[str, Any]) -> Task:
    """The member of a family that reset's options name."""
    key = "goal" if given.name == "point_mass_goal" else "task"
    if not given.hidden or set(options) != {key}:
        allowed = f"{{{key!r}: ...}}" if given.hidden else "none"
        raise ValueError(f"task {given.id!r}: reset options {sorted(options)} are unknown; allowed: {allowed}")
    if key == "goal":
        return registry.task(given.name, goal=options[key])
    names = [one.name for one in registry.members(given)]
    if options[key] not in names:
        raise registry.unknown(f"task {given.id!r}: member", options[key], names)
    return registry.task(options[key])


class Environment(gymnasium.Env):
    """A vector of one."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, task: str | Task, seed: int = 0, render_mode: str | None = None) -> None:
        """See `make`."""
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r} is unknown; allowed: None, 'rgb_array'")
        if render_mode and os.environ.get("MUJOCO_GL") not in RENDERERS:
            raise ValueError(
                f"render_mode={render_mode!r} needs MUJOCO_GL={' or '.join(RENDERERS)} set before Python starts; "
                "envs.render draws stored physics without"
            )
        self._vector = VectorEnvironment([registry.task(task)], seed)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode = render_mode
        self._physics: np.ndarray | None = None

    @property
    def task(self) -> Task:
        """What this episode pays for."""
        return self._vector.tasks[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """See `VectorEnvironment.reset`."""
        super().reset(seed=seed)
        observation, info = self._vector.reset(seed=seed, options=options)
        self._physics = info["physics"][0]
        return observation[0], {"physics": self._physics}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See `VectorEnvironment.step`."""
        observation, reward, _, truncated, info = self._vector.step(np.asarray(action)[None])
        self._physics = info["physics"][0]
        return observation[0], float(reward[0]), False, bool(truncated[0]), {"physics": self._physics}

    def render(self) -> np.ndarray | None:
        """The present state as (height, width, 3) uint8, where `render_mode` asks for it."""
        if self.render_mode is None:
            return None
        return draw(self.task, self._physics[None])[0]

    def close(self) -> None:
        """See `VectorEnvironment.close_extras`."""
        self._vector.close()


def register() -> None:
    """Make `gymnasium.make("exorl/<task>-v0")` know every task."""
    for name in registry.tasks():
        identifier = f"exorl/{name}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(identifier, entry_point="envs.environment:Environment", kwargs={"task": name})
