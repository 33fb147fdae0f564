"""Collects data with a sampling-based planner, which reaches good returns without learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from envs import Task
from envs.mppi import MPPI, MPPIConfig, fit_action_repeat


@dataclass(frozen=True)
class Recipe:
    """Says how episodes are planned, and by how much they depart from the plans.

    Attributes:
        planner: the planner's settings where each action is held for one step.
        efforts: shares of the planner's samples, of which one is drawn for each batch.
        noises: standard deviations of noise on actions, of which one is drawn for each episode.
        noise_shares: probabilities of the noises.
        give_up_share: share of the episodes that act at random from some step on.
        keeps_demonstrator: whether the planner's own actions are stored beside those taken.
    """

    planner: MPPIConfig
    efforts: tuple[float, ...] = (1.0, 0.5, 0.25)
    noises: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0)
    noise_shares: tuple[float, ...] = (0.5, 0.2, 0.2, 0.1)
    give_up_share: float = 0.2
    keeps_demonstrator: bool = False


# A family relabels every episode with hundreds of tasks, for most of which it is poor. So data of a
# family need no poor plans.
_OF_A_FAMILY = {
    "efforts": (1.0,),
    "noises": (0.0, 0.1, 0.3),
    "noise_shares": (0.5, 0.3, 0.2),
    "give_up_share": 0.0,
    "keeps_demonstrator": True,
}
# By domain, or by family where a family needs other data. Each was found by trying a handful of
# values; experiments/results/data holds the returns that the recipes of the domains reach.
RECIPES = {
    "cartpole": Recipe(MPPIConfig(samples=32, knots=12, hold=10, noise=0.8, timestep_scale=2)),
    "cheetah": Recipe(MPPIConfig(samples=64, knots=8, hold=6, noise=1.0, timestep_scale=2)),
    "walker": Recipe(MPPIConfig(samples=16, knots=8, hold=3, noise=1.0, timestep_scale=5)),
    "quadruped": Recipe(MPPIConfig(samples=16, knots=6, hold=3, timestep_scale=2)),
    "hopper": Recipe(MPPIConfig(samples=64, knots=10, hold=4, noise=1.0, timestep_scale=4)),
    "point_mass_maze": Recipe(
        MPPIConfig(samples=16, knots=5, hold=10, noise=1.0, timestep_scale=2)
    ),
    "jaco": Recipe(MPPIConfig(samples=16, knots=6, hold=4, timestep_scale=4)),
    "cheetah_speed": Recipe(
        MPPIConfig(samples=32, knots=8, hold=6, noise=0.7, temperature=0.3, timestep_scale=2),
        **_OF_A_FAMILY,
    ),
    "walker_speed": Recipe(
        MPPIConfig(samples=32, knots=8, hold=5, noise=0.7, temperature=0.3, timestep_scale=5),
        **_OF_A_FAMILY,
    ),
    "jaco_goal": Recipe(
        MPPIConfig(samples=12, knots=2, hold=5, noise=0.7, temperature=0.3, timestep_scale=5),
        **_OF_A_FAMILY,
    ),
}


def has_recipe(task: Task) -> bool:
    """Tells whether data of a task can be planned."""
    return task.name in RECIPES or task.domain in RECIPES


def recipe_of(task: Task) -> Recipe:
    """Returns the recipe of a task's family, or of its domain."""
    return RECIPES.get(task.name) or RECIPES[task.domain]


def planner_of(task: Task, action_repeat: int) -> MPPIConfig:
    """Returns the planner's settings for a task whose actions are held for `action_repeat` steps.

    The collector is asked only once in `action_repeat` steps. A piece of a plan that ended in
    between would last longer than it was planned for.
    """
    return fit_action_repeat(recipe_of(task).planner, task.domain, action_repeat)


class MPPICollector:
    """Plans for each episode's own task; the quality differs by batch and by episode."""

    batch = 10
    one_task = False

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the planner's settings, and by how much episodes depart from its plans."""
        recipe = recipe_of(task)
        # The keys are those of buffers on disk.
        return asdict(planner_of(task, action_repeat)) | {
            "effort": recipe.efforts,
            "shake": recipe.noises,
            "shake_shares": recipe.noise_shares,
            "idle": recipe.give_up_share,
        }

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Draws the effort of the batch, and the noise of each episode."""
        recipe, count = recipe_of(tasks[0]), len(tasks)
        config = planner_of(tasks[0], action_repeat)
        samples = max(4, int(config.samples * rng.choice(recipe.efforts)))
        self._planner = MPPI(tasks, replace(config, samples=samples), rng)
        self._next_plan, self._rng = 0, rng
        self._noise = rng.choice(recipe.noises, (count, 1), p=recipe.noise_shares)
        gives_up = rng.random(count) < recipe.give_up_share
        last_step = np.where(gives_up, rng.integers(length, size=count), length)
        self._random_from = last_step[:, None]
        self._keeps_demonstrator = recipe.keeps_demonstrator
        self._action = np.zeros(())

    @property
    def demonstrator(self) -> np.ndarray | None:
        """Returns the planner's actions; see `datasets.collectors.Collector`."""
        return self._action if self._keeps_demonstrator else None

    def act(self, step: int, physics: np.ndarray) -> np.ndarray:
        """Returns the actions; see `datasets.collectors.Collector.act`."""
        if step >= self._next_plan:
            self._action = self._planner.plan(physics)
            self._next_plan = step + self._planner.config.hold
        return self._disturbed(step, self._action)

    def _disturbed(self, step: int, action: np.ndarray) -> np.ndarray:
        noise = self._rng.standard_normal(action.shape)
        noisy = action + self._noise * noise
        return np.clip(np.where(step < self._random_from, noisy, noise), -1, 1)


class AnnealedMPPICollector(MPPICollector):
    """Plans the episodes of a batch for one task, with noise that fades from episode to episode.

    The first episode is noise alone, the last one has none. So the episodes improve as those of a
    learner do, though nothing is learned:

        a = (1 - e) p + e u,  e = 1, ..., 0 over the episodes,

    where p is the planner's action and u is drawn evenly from [-1, 1] (arXiv 2312.12275). The
    planner's action is stored beside the one taken, for `agent.imitate=demonstrator`.
    """

    one_task = True

    @classmethod
    def settings(cls, task: Task, action_repeat: int = 1) -> dict[str, Any]:
        """Returns the planner's settings."""
        return asdict(planner_of(task, action_repeat)) | {"annealed": [1.0, 0.0]}

    def __init__(
        self, tasks: Sequence[Task], rng: np.random.Generator, length: int, action_repeat: int = 1
    ) -> None:
        """Distributes the noise over the episodes."""
        self._planner = MPPI(tasks, planner_of(tasks[0], action_repeat), rng)
        self._next_plan, self._rng = 0, rng
        self._share = np.linspace(1, 0, len(tasks))[:, None]
        self._keeps_demonstrator = True
        self._action = np.zeros(())

    def _disturbed(self, step: int, action: np.ndarray) -> np.ndarray:
        noise = self._rng.uniform(-1, 1, action.shape)
        return (1 - self._share) * action + self._share * noise
