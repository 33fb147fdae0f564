"""Defines policies that make data without learning; each acts for a batch of environments.

A collector is made once for a batch of episodes, and then maps the step and the physics of the
states to actions. Its strength is drawn for each episode, so that a buffer holds trajectories of
every quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

import envs
from datasets.pd_collectors import GoalRingCollector, MazeRoomsCollector
from envs import Task
from envs.gymnasium_tasks import is_gymnasium
from envs.registry import has_parameters, unknown


class Collector(Protocol):
    """Acts for a batch of episodes.

    Attributes:
        batch: episodes that run together. A seed means other episodes with another batch.
        one_task: whether the episodes of a batch pursue one and the same task of a family.
        demonstrator: (episodes, action size), the actions of the last call of `act` before noise
            was added; None if the collector keeps none.
    """

    batch: ClassVar[int]
    one_task: ClassVar[bool]
    demonstrator: np.ndarray | None

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns what its episodes depend on besides task and seed, in plain values.

        They are kept beside a buffer, so that all its episodes are of one kind.
        """

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Prepares one episode for each of `tasks`, none of them a family.

        Args:
            tasks: what the episodes pursue.
            rng: the source of all draws.
            length: environment steps of an episode.
            action_repeat: environment steps for which each action is held.
        """

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions that are held from environment step `step` on.

        Args:
            step: 0, action_repeat, 2 action_repeat, ...
            physics: (episodes, physics size), the current states.

        Returns:
            (episodes, action size).
        """


class UniformNoise:
    """Draws actions evenly from [-1, 1], as the policy of ExoRL's `random` sets does."""

    batch, one_task, demonstrator = 100, False, None

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns nothing: there is nothing to set."""
        return {}

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Prepares one episode for each of `tasks`."""
        self._shape, self._rng = (len(tasks), envs.spec(tasks[0]).action), rng

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `Collector.act`."""
        return self._rng.uniform(-1, 1, self._shape)


_TIME_SCALES = (2.0, 100.0)  # environment steps
_STRENGTHS = (0.3, 1.5)


class OrnsteinUhlenbeckNoise:
    """Draws Ornstein-Uhlenbeck noise, whose time scale and strength differ by episode.

    Its slow drifts reach states that white noise never reaches.
    """

    batch, one_task, demonstrator = 100, False, None

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the ranges of time scales and strengths."""
        return {
            "time_scales": _TIME_SCALES,
            "time_scales_in": "environment steps",
            "strengths": _STRENGTHS,
        }

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Draws the time scale and the strength of each episode."""
        self._rng = rng
        # x[t+1] = decay x[t] + sqrt(1 - decay^2) noise keeps x at unit variance.
        time_scale = np.exp(rng.uniform(*np.log(_TIME_SCALES), (len(tasks), 1)))
        self._decay = np.exp(-action_repeat / time_scale)
        self._strength = rng.uniform(*_STRENGTHS, (len(tasks), 1))
        self._state = rng.standard_normal((len(tasks), envs.spec(tasks[0]).action))

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `Collector.act`."""
        noise = self._rng.standard_normal(self._state.shape)
        self._state = self._decay * self._state + np.sqrt(1 - self._decay**2) * noise
        return np.clip(self._strength * self._state, -1, 1)


_NOISE = {"random": UniformNoise, "noise": OrnsteinUhlenbeckNoise}
_SMALL = 10  # environments that step one after another gain nothing from more


class _FewUniformNoise(UniformNoise):
    batch = _SMALL


class _FewOrnsteinUhlenbeckNoise(OrnsteinUhlenbeckNoise):
    batch = _SMALL


_STEPPED_SINGLY = {"random": _FewUniformNoise, "noise": _FewOrnsteinUhlenbeckNoise}
_PD = {"point_mass": GoalRingCollector, "point_mass_maze": MazeRoomsCollector}


def collectors(task: str | Task) -> dict[str, type[Collector]]:
    """Returns the collectors that a task has, by name."""
    task = envs.task(task)
    if is_gymnasium(task.name):
        return _STEPPED_SINGLY
    # Loads MuJoCo, which a check of a command line does not wait for.
    from datasets.jaco_collector import HandCollector
    from datasets.mppi_collector import AnnealedMPPICollector, MPPICollector, has_recipe

    controllers = _PD | {"jaco": HandCollector}
    pd = {"pd": controllers[task.domain]} if task.domain in controllers else {}
    planned = {"mppi": MPPICollector, "mppi_annealed": AnnealedMPPICollector}
    return _NOISE | pd | (planned if has_recipe(task) else {})


def collector_class(name: str, task: str | Task) -> type[Collector]:
    """Returns the collector called `name`.

    Raises:
        ValueError: the task's domain has none of this name.
    """
    available = collectors(task)
    if name not in available:
        one = envs.task(task)
        problem = unknown(f"collector for {one.domain}", name, tuple(available))
        # It is agentic_transformer.online's.
        online = "; experiments.collect has td3 too" if has_parameters(one) else ""
        raise ValueError(f"data.algo={name} makes no data for {one.id}: {problem}{online}")
    return available[name]
