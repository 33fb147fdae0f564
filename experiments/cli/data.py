"""The trajectories a command works on, labelled with the rewards of tasks."""

from __future__ import annotations

from pathlib import Path

import datasets
import envs
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.random_streams import stream
from agentic_transformer.settings import shell_words as pasteable
from datasets import download
from datasets.collectors import collectors

# The first that a domain has is the one to propose: policies that get somewhere, before noise.
_COLLECTORS = ("pd", "mppi", "random")


def open_store(task: str, config: DataConfig) -> datasets.ActionRepeatView:
    """The cache of the task's buffer, built from its episodes where it is not there yet, in the
    agent's steps.

    Raises:
        ValueError: there are no episodes (says how to get them), they are another domain's, or
            too short.
    """
    buffer = datasets.buffer_folder(config.root, envs.task(task).domain, config.algo)
    if not any(Path(buffer).glob("*.npz")):
        raise ValueError(
            f"no episodes in {buffer} (data.root says where they lie)\n"
            + "\n".join(_ways(task, config))
        )
    cache = datasets.build_cache(buffer, place=config.cache)
    store = datasets.Store(cache, episodes=config.episodes, seed=config.seed)
    strided = datasets.ActionRepeatView(store, config.action_repeat, config.horizon)
    short = (
        f", fewer than data.episodes={config.episodes}" if store.episodes < config.episodes else ""
    )
    steps, longest = strided.steps * config.action_repeat, store.lengths.max()
    cut = f"; of each the first {steps} steps, of up to {longest}" if steps < longest else ""
    taken = f"{store.episodes} of the {store.cached} episodes in {buffer}"
    print(f"data: {taken}{short}{cut}", flush=True)
    return strided


def _ways(task: str, config: DataConfig) -> list[str]:
    """Says how to make or download such data, a line each, and which data.algo then reads it."""
    domain, names = envs.task(task).domain, collectors(task)
    ways = []
    downloadable = domain in download.DOMAINS and config.algo in download.ALGORITHMS
    if config.algo in names or not downloadable:
        algo = (
            config.algo
            if config.algo in names
            else next(name for name in _COLLECTORS if name in names)
        )
        ways.append(f"  make them with `{_collect(task, config, algo)}`" + _then(algo, config))
    if domain in download.DOMAINS:
        algo = config.algo if downloadable else "rnd"
        given = {"domain": domain, "algo": algo} | (
            {"root": config.root} if config.root != DataConfig().root else {}
        )
        ways.append(
            f"  download ExoRL's with `python -m experiments.download {pasteable(given)}`"
            + _then(algo, config)
        )
    return ways


def _then(algo: str, config: DataConfig) -> str:
    return f" and give data.algo={algo} here too" if algo != config.algo else ""


def _collect(task: str, config: DataConfig, algo: str) -> str:
    """The command that makes such data."""
    made_by = ("root", "algo", "episodes", "seed", "action_repeat")
    wanted = vars(config) | {"algo": algo}
    given = {
        f"data.{key}": wanted[key] for key in made_by if wanted[key] != getattr(DataConfig(), key)
    }
    return f"python -m experiments.collect {pasteable({'task': task} | given)}"


def training_data(task: str, config: DataConfig) -> RelabelledDataset:
    """The store under the rewards of the training tasks."""
    tasks = envs.training_tasks(task, config.tasks, stream("training tasks", config.seed))
    return RelabelledDataset(open_store(task, config), tasks, config.relabel)


def evaluation_data(task: str, config: DataConfig, tasks: list[envs.Task]) -> RelabelledDataset:
    """The store under the rewards of evaluation tasks, for prompts."""
    return RelabelledDataset(open_store(task, config), tasks, config.relabel)
