"""Opens the trajectories that the settings name, under the rewards of training or evaluation tasks.

The files are `<data.root>/<domain>/<data.algo>/buffer/*.npz`, as ExoRL releases them.
"""

from __future__ import annotations

from pathlib import Path

import datasets
import envs
from agentic_transformer.config import DataConfig
from agentic_transformer.contexts.missing_data import other_root, ways_to_get
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.random_streams import stream
from agentic_transformer.settings import shell_words
from datasets.collection_metadata import read_origin
from datasets.download import is_half_unpacked
from datasets.relabelling import STORED
from envs.registry import pays_itself


def training_data(
    task: str, config: DataConfig, told: bool = False, imitate: str = "taken"
) -> RelabelledDataset:
    """Returns the trajectories under the rewards of the training tasks.

    Args:
        task: name of a task, or of a family whose training tasks are drawn.
        config: which trajectories, how many tasks, and the mode of relabelling.
        told: whether observations hold the parameters of the tasks.
        imitate: whose actions will be imitated, see `agent.imitate`.

    Raises:
        ValueError: see `open_store`; `told` is set and a task has no parameters; demonstrators are
            to be imitated and the episodes hold none; or every return is 0.
    """
    tasks, mode = training_tasks(task, config), relabel_mode(task, config)
    store = open_store(task, config)
    if imitate == "demonstrator":
        store.demonstrator([0])  # before rewards are computed, which may take minutes
    data = RelabelledDataset(store, tasks, mode, told)
    if not data.returns.any():
        if mode == STORED:
            what, allowed = "every reward in the episodes is 0", "episodes with rewards"
            allowed += "" if pays_itself(envs.task(task)) else ", or data.relabel=exorl"
        else:
            what = f"task={task}: no episode earns anything at any training task"
            allowed = "more episodes (data.episodes), or others (data.algo)"
        raise ValueError(f"{what}, so there is nothing to learn from; allowed: {allowed}")
    return data


def training_tasks(task: str, config: DataConfig) -> list[envs.Task]:
    """Returns the tasks that trajectories are relabelled with for training."""
    return envs.training_tasks(task, config.tasks, stream("training tasks", config.seed))


def evaluation_data(task: str, config: DataConfig, tasks: list[envs.Task]) -> RelabelledDataset:
    """Returns the trajectories under the rewards of evaluation tasks, for prompts.

    Args:
        task: the task or family of the run.
        config: which trajectories, and the mode of relabelling.
        tasks: the evaluation tasks.

    Raises:
        ValueError: see `open_store`.
    """
    return RelabelledDataset(open_store(task, config), tasks, relabel_mode(task, config))


def relabel_mode(task: str, config: DataConfig) -> str:
    """Returns the mode of relabelling: `stored` where gymnasium's own rewards count."""
    return STORED if pays_itself(envs.task(task)) else config.relabel


def open_store(task: str, config: DataConfig) -> datasets.ActionRepeatView:
    """Opens the cache of a task's episodes in steps of the agent, and prints what it holds.

    The cache is built from the episodes if it does not exist.

    Args:
        task: its domain names the folder.
        config: which episodes, and how many environment steps the agent repeats an action for.

    Raises:
        ValueError: there are no episodes, or not all are unpacked (the error says how to get them),
            they belong to another domain, or they are too short.
    """
    domain = envs.task(task).domain
    buffer = datasets.buffer_folder(config.root, domain, config.algo)
    if is_half_unpacked(buffer):
        words = shell_words({"domain": domain, "algo": config.algo, "root": config.root})
        raise ValueError(
            f"not all episodes of {buffer} are unpacked; wait until that has ended, or go on with "
            f"`python -m experiments.download {words}`"
        )
    if not any(Path(buffer).glob("*.npz")):
        root = other_root(task, config)
        there = f": {shell_words({'data.root': root})} has some" if root else ""
        raise ValueError(
            f"no episodes in {buffer} (data.root says where they lie{there})\n"
            + "\n".join(ways_to_get(task, config))
        )
    cache = datasets.build_cache(buffer, domain, place=config.cache)
    store = datasets.Store(cache, episodes=config.episodes, seed=config.seed)
    view = datasets.ActionRepeatView(store, config.action_repeat, config.horizon)
    print(_summary(store, view, buffer, config), flush=True)
    if relabel_mode(task, config) == STORED:
        of = read_origin(Path(buffer)).get("task", task)
        print(f"rewards: those in the episodes{'' if of == task else f', collected for {of}'}")
    return view


def _summary(
    store: datasets.Store, view: datasets.ActionRepeatView, buffer: Path, config: DataConfig
) -> str:
    """Says how many episodes are used, and how many of their steps."""
    used = f"{store.episodes} of the {store.cached} episodes in {buffer}"
    if store.episodes < config.episodes:
        there = f"only {store.episodes} episodes are there (data.episodes={config.episodes})"
        used = f"{there}: all are used, from {buffer}"
    steps, longest = view.steps * config.action_repeat, store.lengths.max()
    cut = f"; of each the first {steps} steps, of up to {longest}" if steps < longest else ""
    return f"data: {used}{cut}"
