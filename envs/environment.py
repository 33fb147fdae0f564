"""Gymnasium environments on batched physics.

Episodes all last T agent steps and truncate, never terminate. A vector whose environments are reset
together ends in one step; otherwise a mask says which begin again. None does so by itself.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from envs import registry, rendering
from envs.domain import load, mode
from envs.physics import Batch, Rewards
from envs.registry import Task

_TASK_STREAM = 1  # keeps the draw of a hidden task apart from the draw of a start
_SEEDS = 2**32  # numpy's RandomState, from which dm_control starts episodes, takes those below
_RENDER_MODES = ("rgb_array",)


def make(task: str | Task, seed: int | None = 0, render_mode: str | None = None) -> gymnasium.Env:
    """One environment.

    Args:
        task: a name of `envs.tasks()` or a Task.
        seed: of the first reset, where that gives none; None: anything. Episodes start where
            dm_control's own environment with this seed does.
        render_mode: None, or `rgb_array`, which draws as `envs.render` does.

    Raises:
        ValueError: an unknown task or render_mode, or a wrong seed.
    """
    return Environment(task, seed, render_mode)


def make_vec(
    task: str | Task | Sequence[str | Task],
    num_envs: int | None = None,
    seed: int | None = 0,
    action_repeat: int = 1,
    horizon: int | None = None,
    render_mode: str | None = None,
) -> VectorEnv:
    """Many environments of one domain that step together.

    Args:
        task: for all of them; or a sequence with one for each.
        num_envs: how many; for a sequence, its length.
        seed: environment i starts as `make` with seed + i does; None: anything.
        action_repeat: agent steps for which each action is held: a step of the environment is all
            of them, its reward their sum.
        horizon: steps of an episode; None: as many as the task's episodes last.
        render_mode: None, or `rgb_array`: `render` returns a picture of each.

    Raises:
        ValueError: unknown tasks, tasks of several domains, a number that differs from the
            sequence's length, more steps than an episode has, a wrong seed or render_mode.
    """
    if isinstance(task, str | Task):
        chosen = [registry.task(task)] * (1 if num_envs is None else num_envs)
    else:
        chosen = [registry.task(one) for one in task]
        if num_envs not in (None, len(chosen)):
            raise ValueError(
                f"num_envs={num_envs} differs from the number of tasks given, {len(chosen)}"
            )
    if not chosen:
        raise ValueError(f"num_envs={num_envs}: at least one environment is needed")
    domains = sorted({one.domain for one in chosen})
    if len(domains) > 1:
        raise ValueError(
            f"tasks of one vector must share a domain, these are of {', '.join(domains)}"
        )
    return VectorEnvironment(chosen, seed, action_repeat, horizon, render_mode)


class VectorEnvironment(VectorEnv):
    """Environments of one domain.

    `tasks` says what each pays for in this episode (a family draws a member at every reset).
    Copies and what comes back from pickle go on independently, as the original would.
    """

    metadata = {
        "render_modes": list(_RENDER_MODES),
        "render_fps": 30,
        "autoreset_mode": AutoresetMode.DISABLED,
    }

    def __init__(
        self,
        tasks: Sequence[Task],
        seed: int | None,
        action_repeat: int = 1,
        horizon: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """See `make_vec`."""
        if render_mode not in (None, *_RENDER_MODES):
            raise ValueError(f"render_mode={render_mode!r} is unknown; allowed: None, 'rgb_array'")
        self._given = list(tasks)
        self._domain = tasks[0].domain
        self._spec = registry.spec(tasks[0])
        self._repeat, self._length = action_repeat, horizon or self._spec.length // action_repeat
        if not 1 <= self._length * action_repeat <= self._spec.length:
            said = f"action_repeat={action_repeat} with horizon={horizon}"
            raise ValueError(
                f"{said} does not fit the {self._spec.length} agent steps of an episode of {tasks[0].id}"
            )
        self.num_envs = len(tasks)
        self.render_mode = render_mode
        if seed is None:
            seed = int(np.random.default_rng().integers(_SEEDS - self.num_envs))
        streams = [_streams(one) for one in _seeds(seed, self.num_envs)]
        self._starts, self._draws = map(list, zip(*streams, strict=True))
        self.single_observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (self._spec.observation,), np.float32
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self._spec.action,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(
            self.single_observation_space, self.num_envs
        )
        self.action_space = gymnasium.vector.utils.batch_space(
            self.single_action_space, self.num_envs
        )
        self._observe = load(self._domain).observe
        self.tasks = registry.draw_tasks(
            self._given[0], self.num_envs, np.random.default_rng(seed)
        )  # until the first reset
        self._batch = Batch(self._domain, self._modes())
        self._elapsed: np.ndarray | None = None  # steps of each episode; None: no reset yet

    def __copy__(self) -> VectorEnvironment:
        """Copies are deep: half of a simulation cannot be shared."""
        return copy.deepcopy(self)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every environment, or in those of a mask.

        Args:
            seed: of environment 0, counting up; or one for each. None goes on with the streams in
                use.
            options: `{"task": name}` (a member of the family) or `{"goal": (x, y)}`, for all;
                otherwise families draw. `{"reset_mask": mask}`, (environments,) bool: only these
                begin, the others stay where they are.

        Returns:
            Observations of all environments, and `{"physics": of all, "_physics": which began}`.

        Raises:
            ValueError: options that do not fit the task, a wrong mask or seed.
            gymnasium.error.ResetNeeded: a mask in the first reset leaves some out.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._refuse_closed()
        mask, options = _reset_mask(options, self.num_envs)
        seeds = _seeds(seed, self.num_envs)
        if self._elapsed is None and not mask.all():
            raise gymnasium.error.ResetNeeded("the first reset must be of all environments")
        begin = {self._given[index] for index in np.flatnonzero(mask)}
        members = {given: _chosen(given, options) for given in begin} if options else {}
        tasks = list(self.tasks)
        for index in np.flatnonzero(mask):
            if seeds[index] is not None:
                self._starts[index], self._draws[index] = _streams(seeds[index])
            tasks[index] = members.get(self._given[index]) or self._member(index)
        self.tasks = tasks
        self._rewards = Rewards(self.tasks)
        self._batch.start(self._modes(), self._starts, mask)
        self._elapsed = np.where(mask, 0, 0 if self._elapsed is None else self._elapsed)
        return self._observations(), self._info(mask)

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Hold `action`, (environments, action size) in [-1, 1], for `action_repeat` agent steps,
        whose rewards are summed.

        Raises:
            ValueError: an action of another shape, or one that is not finite.
            gymnasium.error.ResetNeeded: an episode is over.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._refuse_closed()
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"action must be finite and of shape {self.action_space.shape}, got shape {action.shape}"
            )
        if self._elapsed is None or (self._elapsed >= self._length).any():
            raise gymnasium.error.ResetNeeded(
                f"an episode lasts {self._length} steps: call reset before this step, "
                "where only some are over with options={'reset_mask': truncated}"
            )
        reward = np.zeros(self.num_envs)
        for _ in range(self._repeat):
            self._batch.step(action)
            reward += self._rewards(self._batch.readings, action)
        self._elapsed += 1
        over = self._elapsed == self._length
        if over.any():
            self._batch.check(over)
        info = self._info(np.ones(self.num_envs, bool))
        return self._observations(), reward, np.zeros(self.num_envs, bool), over, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present states as (height, width, 3) uint8 each, where `render_mode` asks for them.

        Raises:
            RuntimeError: this machine cannot draw; one line says why.
            gymnasium.error.ResetNeeded: there is no state before the first `reset`.
            gymnasium.error.ClosedEnvironmentError: `close` was called.
        """
        self._refuse_closed()
        if self.render_mode is None:
            gymnasium.logger.warn("render draws nothing without render_mode='rgb_array' in make")
            return None
        if self._elapsed is None:
            raise gymnasium.error.ResetNeeded("nothing to render yet: call reset before render")
        states = zip(self.tasks, self._batch.physics, strict=True)
        return tuple(rendering.render(task, state[None])[0] for task, state in states)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the simulations; called by `close`."""
        self._batch.close()
        del self._batch

    def _refuse_closed(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError(
                "this environment was closed: make another"
            )

    def _observations(self) -> np.ndarray:
        return self._observe(self._batch.readings).astype(np.float32)

    def _info(self, mask: np.ndarray) -> dict[str, Any]:
        """Physics of all states and, as gymnasium's vectors have it, whose it is news of."""
        return {"physics": self._batch.physics.copy(), "_physics": mask}

    def _modes(self) -> list[str]:
        return [mode(task.name, self._domain) for task in self.tasks]

    def _member(self, index: int) -> Task:
        return registry.draw_tasks(self._given[index], 1, self._draws[index])[0]


def _seeds(given: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """A seed for each of `count` environments; None where a stream goes on."""
    if given is None:
        return [None] * count
    if isinstance(given, int | np.integer):
        seeds = [int(given) + index for index in range(count)]
    else:
        seeds = list(given) if np.ndim(given) == 1 else [given]
    said = [one for one in seeds if one is not None]
    fit = all(isinstance(one, int | np.integer) and 0 <= one < _SEEDS for one in said)
    if len(seeds) != count or not fit:
        raise ValueError(
            f"seed={reprlib.repr(given)} does not fit {count} environments: give one integer, "
            "which counts up, or one for each; all from 0 to 2**32 - 1"
        )
    return seeds


def _streams(seed: int) -> tuple[np.random.RandomState, np.random.Generator]:
    """Where an environment's starts come from, and the members of its family."""
    return np.random.RandomState(seed), np.random.default_rng([seed, _TASK_STREAM])


def _reset_mask(options: dict[str, Any] | None, count: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Which environments to reset, (environments,) bool, and the other options."""
    rest = dict(options or {})
    if "reset_mask" not in rest:
        return np.ones(count, bool), rest
    mask = rest.pop("reset_mask")
    fits = isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (count,)
    if not fits or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must be a numpy array of {count} bools, one of them True at least, got {reprlib.repr(mask)}"
        )
    return mask.copy(), rest


def _chosen(given: Task, options: dict[str, Any]) -> Task:
    """The member of a family that reset's options name."""
    key = "goal" if given.name == "point_mass_goal" else "task"
    if not given.hidden or set(options) != {key}:
        allowed = f"{{{key!r}: ...}}" if given.hidden else "none"
        raise ValueError(
            f"task {given.id!r}: reset options {sorted(options)} are unknown; allowed: {allowed}"
        )
    if key == "goal":
        return registry.task(given.name, goal=options[key])
    names = [one.name for one in registry.members(given)]
    if options[key] not in names:
        raise registry.unknown(f"task {given.id!r}: member", options[key], names)
    return registry.task(options[key])


class Environment(gymnasium.Env):
    """A vector of one."""

    metadata = {"render_modes": list(_RENDER_MODES), "render_fps": 30}

    def __init__(
        self,
        task: str | Task,
        seed: int | None = 0,
        render_mode: str | None = None,
    ) -> None:
        """See `make`."""
        self._vector = VectorEnvironment([registry.task(task)], seed, render_mode=render_mode)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode = render_mode

    def __copy__(self) -> Environment:
        """See `VectorEnvironment.__copy__`."""
        return copy.deepcopy(self)

    @property
    def task(self) -> Task:
        """What this episode pays for."""
        return self._vector.tasks[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """See `VectorEnvironment.reset`."""
        super().reset(seed=seed)
        observation, info = self._vector.reset(seed=seed, options=options)
        return observation[0], {"physics": info["physics"][0]}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See `VectorEnvironment.step`."""
        observation, reward, _, truncated, info = self._vector.step(np.asarray(action)[None])
        info = {"physics": info["physics"][0]}
        return observation[0], float(reward[0]), False, bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """See `VectorEnvironment.render`; one picture."""
        frames = self._vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """See `VectorEnvironment.close_extras`."""
        self._vector.close()
