"""Makes a buffer in the ExoRL format by running a collector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import envs
from datasets.collection_metadata import read_same_collection, record_collection
from datasets.collectors import Collector, collector_class
from datasets.consistency import problems_of
from datasets.episode import DEMONSTRATOR, Episode, episode_path, write_episode
from datasets.progress import progress_bar
from envs import Task
from envs.gymnasium_tasks import folder_of, is_gymnasium
from envs.registry import parameters
from envs.reset_options import random_streams

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

Actor = Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""(step, observations, physics) -> actions taken and the demonstrator's, (episodes, size) each."""


def buffer_folder(root: str | Path, task: str | Task, algo: str) -> Path:
    """Returns `<root>/<domain>/<algo>/buffer`, the folder that ExoRL's archives unpack to.

    `task` may also be a domain's name.
    """
    known = isinstance(task, str) and task in envs.registry.domains()
    return Path(root) / folder_of(task if known else envs.task(task).domain) / algo / "buffer"


def collect(
    task: str | Task,
    folder: str | Path,
    *,
    episodes: int,
    seed: int = 0,
    collector: str = "random",
    action_repeat: int = 1,
    length: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs a collector and writes its episodes, except those that the folder has already.

    Episode i depends on the seed and i alone (and the versions of the libraries). So an interrupted
    collection goes on to the same buffer, and a finished one can be extended.

    Args:
        task: its domain is simulated, and the rewards written are the task's. A family draws a
            member for each episode, or for each batch of the collector; `point_mass_goal`, whose
            data are reward-free, writes 0.
        folder: for the episodes and `metadata.json`.
        episodes: how many the buffer shall have.
        seed: of starts and policies.
        collector: a name of `datasets.collectors.collectors(task)`.
        action_repeat: steps for which each action is held; every one of them is stored.
        length: steps of an episode; None takes as many as the domain's episodes have.
        progress: show a progress bar.

    Returns:
        the metadata. Its versions are those of the libraries and the code of the last episodes.

    Raises:
        ValueError: unknown task or collector, a number that is not allowed, a folder that was
            collected with other settings, or an environment whose observations leave its own space.
    """
    task, folder = envs.task(task), Path(folder)
    policy = collector_class(collector, task)
    episodes, seed, action_repeat, length = whole_numbers(
        task, episodes, seed, action_repeat, length
    )
    made = {
        "task": task.id,
        "collector": collector,
        "seed": seed,
        "length": length,
        "action_repeat": action_repeat,
        "settings": policy.settings(task, action_repeat),
    }
    before = read_same_collection(folder, made)
    paths = [episode_path(folder, index, length) for index in range(episodes)]
    missing = {index for index, path in enumerate(paths) if not path.exists()}
    if before and not missing:
        if progress:
            tqdm.write(f"{folder}: {len(list(folder.glob('*.npz')))} episodes are there already")
        return before
    with record_collection(folder, before, made, episodes, len(missing)) as metadata:
        run = _episodes(task, policy, seed, missing, action_repeat, length, progress)
        for index, episode in run:
            write_collected(folder, index, episode, task)
    return metadata


def whole_numbers(
    task: Task, episodes: int, seed: int, action_repeat: int, length: int | None
) -> tuple[int, int, int, int]:
    """Returns the numbers of a collection, with the length of an episode where none is given.

    Raises:
        ValueError: one is no whole number, or out of its range.
    """
    longest = envs.spec(task).length
    length = longest if length is None else length
    asked = {"episodes": episodes, "seed": seed, "action_repeat": action_repeat, "length": length}
    for name, value in asked.items():
        low, high = int(name != "seed"), longest if name == "length" else math.inf
        if not isinstance(value, Integral) or not low <= value <= high:
            allowed = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise ValueError(f"{name}={value!r}; allowed: a whole number, {allowed}")
    return tuple(map(int, asked.values()))


def write_collected(folder: Path, index: int, episode: Episode, task: Task) -> None:
    """Writes an episode just collected, if the cache will take it.

    So an environment of gymnasium whose observations leave its own space stops a collection at the
    first batch, not at the end.

    Raises:
        ValueError: the cache would refuse it.
    """
    # Ours follow from their physics; to compute that again would cost more than the writing.
    if is_gymnasium(task.domain) and (problems := problems_of(episode, task.domain)):
        raise ValueError(
            f"task {task.id!r}: episode {index} is not written, as it could not be used: "
            + "; ".join(problems)
        )
    write_episode(folder, index, episode)


def start_seed(seed: int, index: int) -> int:
    """Returns the seed of the environment in which episode `index` starts."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _episodes(
    task: Task,
    policy: type[Collector],
    seed: int,
    missing: set[int],
    action_repeat: int,
    length: int,
    progress: bool,
) -> Iterator[tuple[int, Episode]]:
    """Yields the missing episodes with their numbers.

    Episodes run in batches of a fixed size, as an episode's noise depends on its batch. So a whole
    batch runs even if only one of its episodes is missing.
    """
    batches = sorted({index // policy.batch for index in missing})
    steps = len(batches) * policy.batch * length
    environments = envs.make_vec(task, policy.batch, horizon=length)
    with progress_bar(f"collecting {task.id}", total=steps, unit="step", show=progress) as bar:
        for batch in batches:
            indices = range(batch * policy.batch, (batch + 1) * policy.batch)
            seeds = [start_seed(seed, index) for index in indices]
            tasks = episode_tasks(task, seeds, policy.one_task)
            rng = np.random.default_rng([seed, batch])
            collector = policy(tasks, rng, length, action_repeat)
            start = environments.reset(seed=seeds, options={"tasks": tasks})
            actor = partial(_act, collector)
            episodes = run_batch(environments, start, actor, action_repeat, length, bar)
            for index, episode in zip(indices, episodes, strict=True):
                if index in missing:
                    yield index, episode


def _act(
    collector: Collector, step: int, observation: np.ndarray, physics: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    return collector.act(step, physics), collector.demonstrator


def episode_tasks(task: Task, seeds: Sequence[int], one_task: bool = False) -> list[Task]:
    """Draws the task of each episode.

    Args:
        task: a family, or what all episodes pursue.
        seeds: of the episodes, see `start_seed`.
        one_task: draw one task for all episodes, by the first one's seed.
    """
    # The stream is that of the environment of this seed, which draws its members so.
    streams = [random_streams(seed)[1] for seed in (seeds[:1] if one_task else seeds)]
    drawn = [envs.collection_tasks(task, 1, stream)[0] for stream in streams]
    return drawn * len(seeds) if one_task else drawn


def run_batch(
    environments: VectorEnv,
    start: tuple[np.ndarray, dict[str, Any]],
    actor: Actor,
    action_repeat: int,
    length: int,
    bar: tqdm,
) -> list[Episode]:
    """Runs one episode in each environment, from row 0, the reset, to row T.

    Args:
        environments: just reset.
        start: what `reset` returned.
        actor: returns the actions at a step, of its observations and physics: first those taken,
            then the demonstrator's, see `datasets.collectors.Collector`.
        action_repeat: steps for which each action is held.
        length: T.
        bar: counts the steps.
    """
    observation, info = start
    tasks, count = environments.tasks, environments.num_envs
    spec = envs.spec(tasks[0])
    sizes = {
        "observation": spec.observation,
        "action": spec.action,
        "reward": 1,
        "discount": 1,
        "physics": spec.physics,
        "demonstrator": spec.action,
    }
    # (episodes, rows, size) each
    arrays = {key: np.zeros((count, length + 1, size)) for key, size in sizes.items()}
    arrays["discount"][:] = 1
    reward_free = tasks[0].name == "point_mass_goal"
    for row in range(length + 1):
        if row:
            if (row - 1) % action_repeat == 0:
                # Rounded before it is executed, so that what is stored is what was done.
                action, demonstrated = actor(row - 1, observation, info["physics"])
                action = np.clip(action, -1, 1).astype(np.float32)
            observation, reward, _, _, info = environments.step(action)
            arrays["action"][:, row] = action
            arrays["reward"][:, row, 0] = 0 if reward_free else reward
            if demonstrated is not None:
                arrays["demonstrator"][:, row] = demonstrated
            bar.update(count)
        arrays["observation"][:, row] = observation
        arrays["physics"][:, row] = info["physics"]
    demonstrators = arrays.pop("demonstrator")
    return [
        Episode(
            **{key: array[i] for key, array in arrays.items()},
            extra={} if demonstrated is None else _extra(tasks[i], demonstrators[i]),
        )
        for i in range(count)
    ]


def _extra(task: Task, demonstrated: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what readers of ExoRL's format ignore: demonstrator and parameters, (rows, size)."""
    extra = {DEMONSTRATOR: demonstrated}
    if task.params:
        extra["parameters"] = np.tile(parameters([task]), (len(demonstrated), 1))
    return extra
