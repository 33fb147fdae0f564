"""The trajectories a command works on, labelled with the rewards of tasks."""

from __future__ import annotations

from pathlib import Path

import datasets
import envs
from agentic_transformer.config import DataConfig
from agentic_transformer.labels import LabelledTrajectories
from agentic_transformer.streams import stream


def open_store(task: str, config: DataConfig) -> datasets.Strided:
    """The cache of the task's buffer, built from its episodes where it is not there yet, in the agent's steps.

    Raises:
        ValueError: there are no episodes (says how to get them), they are another domain's, or
            too short.
    """
    buffer = datasets.buffer_folder(config.root, envs.task(task).domain, config.algo)
    if not any(Path(buffer).glob("*.npz")):
        raise ValueError(
            f"no episodes in {buffer}; make them with `{_collect(task, config)}`, "
            f"download ExoRL's with `python -m experiments.download`, or say with data.root where they lie"
        )
    cache = datasets.build_cache(buffer, place=config.cache)
    store = datasets.Store(cache, episodes=config.episodes, seed=config.seed)
    strided = datasets.Strided(store, config.action_repeat, config.horizon)
    short = f", fewer than data.episodes={config.episodes}" if store.episodes < config.episodes else ""
    steps, longest = strided.steps * config.action_repeat, store.lengths.max()
    cut = f"; of each the first {steps} steps, of up to {longest}" if steps < longest else ""
    taken = f"{store.episodes} of the {store.cached} episodes in {buffer}"
    print(f"data: {taken}{short}{cut}", flush=True)
    return strided


def _collect(task: str, config: DataConfig) -> str:
    """The command that makes such data."""
    made_by = ("root", "algo", "episodes", "seed", "action_repeat")
    given = {key: value for key, value in vars(config).items() if key in made_by and value != getattr(DataConfig(), key)}
    return " ".join(["python -m experiments.collect", f"task={task}", *(f"data.{key}={value}" for key, value in given.items())])


def training_data(task: str, config: DataConfig) -> LabelledTrajectories:
    """The store under the rewards of the training tasks."""
    tasks = envs.training_tasks(task, config.tasks, stream("training tasks", config.seed))
    return LabelledTrajectories(open_store(task, config), tasks, config.relabel)


def evaluation_data(task: str, config: DataConfig, tasks: list[envs.Task]) -> LabelledTrajectories:
    """The store under the rewards of evaluation tasks, for prompts."""
    return LabelledTrajectories(open_store(task, config), tasks, config.relabel)
