"""Collects the whole replay of an online learner as a buffer in ExoRL's format.

Each round plays some episodes with the current actor, then makes one update for each of their
actions. An action is held for `action_repeat` environment steps. All draws depend on the seed and
the round. The learner is saved with the number of its round, so an interrupted collection drops the
episodes of the unfinished round, goes on, and ends with the same bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import datasets
import envs
from agentic_transformer.config import TD3Config
from agentic_transformer.online.checks import check_rounds
from agentic_transformer.online.replay import Replay
from agentic_transformer.online.td3 import TD3Learner, read_rounds
from agentic_transformer.random_streams import stream
from datasets import Episode
from datasets.collection import (
    episode_tasks,
    run_batch,
    start_seed,
    whole_numbers,
    write_collected,
)
from datasets.collection_metadata import read_same_collection, record_collection
from datasets.episode import episode_path
from datasets.new_file import remove_partial_files
from datasets.progress import progress_bar
from envs import Task

# Each episode draws the standard deviation of its noise on actions from these, with these
# probabilities. The noise is autoregressive: each value keeps 0.7 of the one before.
NOISES, NOISE_SHARES, NOISE_MEMORY = (0.0, 0.1, 0.2, 0.4), (0.25, 0.25, 0.3, 0.2), 0.7
_UPDATES_AT_ONCE = 128  # batches in memory
_LIBRARIES = ("mujoco", "dm_control", "numpy", "jax", "flax", "optax")


def learner_path(folder: Path) -> Path:
    """Returns the file of a buffer's learner, beside the buffer."""
    return folder.with_name("learner.npz")


def returns_path(folder: Path) -> Path:
    """Returns the path of the table of the return of each episode, beside the buffer."""
    return folder.with_name("returns.csv")


def collect_td3(
    task: str | Task,
    folder: str | Path,
    *,
    episodes: int,
    config: TD3Config,
    seed: int = 0,
    action_repeat: int = 1,
    length: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Lets TD3 learn a family, told the parameters of each episode, and keeps all its episodes.

    Beside ExoRL's arrays, an episode has `demonstrator`, the actor's own actions without noise;
    `parameters`; and `noise`, the standard deviation of the noise that was added. `learner.npz` and
    `returns.csv` lie beside the buffer. Only the same machine with the same versions reproduces a
    buffer, as a learner magnifies differences of rounding.

    Args:
        task: a family with parameters.
        folder: of the buffer.
        episodes: how many the buffer shall have, a multiple of `config.episodes`.
        config: settings of the learner.
        seed: of starts, parameters, exploration and networks.
        action_repeat: steps for which each action is held; every one of them is stored.
        length: steps of an episode; None takes as many as the domain's episodes have.
        progress: show a progress bar.

    Returns:
        the metadata.

    Raises:
        ValueError: the task has no parameters; a number is not allowed, or numbers do not divide;
            or the folder was collected with other settings, another process collects into it, or it
            lacks an episode that the learner has learned from.
    """
    task, folder = envs.task(task), Path(folder)
    episodes, seed, action_repeat, length = whole_numbers(
        task, episodes, seed, action_repeat, length
    )
    check_rounds(task.id, episodes, config.episodes, length, action_repeat)
    made = {
        "task": task.id,
        "collector": "td3",
        "seed": seed,
        "length": length,
        "action_repeat": action_repeat,
        "settings": asdict(config)
        | {"noises": NOISES, "noise_shares": NOISE_SHARES, "noise_memory": NOISE_MEMORY},
    }
    before = read_same_collection(folder, made)
    rounds = _Rounds(task, folder, episodes, config, seed, action_repeat, length)
    done = rounds.restore()
    new = episodes - done * config.episodes
    if before and new <= 0:
        return before
    with record_collection(
        folder, before, made, episodes, new, _LIBRARIES, [__name__], alone=True
    ) as metadata:
        rounds.run(progress)
    return metadata


class _Rounds:
    """Plays the rounds of one collection."""

    def __init__(
        self,
        task: Task,
        folder: Path,
        episodes: int,
        config: TD3Config,
        seed: int,
        action_repeat: int,
        length: int,
    ) -> None:
        self._task, self._folder, self._config = task, folder, config
        self._seed, self._repeat, self._length = seed, action_repeat, length
        self._rounds, self._steps = episodes // config.episodes, length // action_repeat
        self._replay = Replay(task, episodes, self._steps, action_repeat)
        self._noises: list[np.ndarray] = []  # of each round of the replay
        spec = envs.spec(task)
        seen = spec.observation + self._replay.params_size
        self._learner = TD3Learner(seen, spec.action, config, seed)

    def restore(self) -> int:
        """Restores the learner, if there is one.

        Returns:
            the number of finished rounds.

        Raises:
            ValueError: an episode that the learner has learned from is gone, or the learner is; or
                the file is no learner of these settings.
        """
        path = learner_path(self._folder)
        remove_partial_files(path.parent, path.name)
        # Without episodes, a learner that has learned nothing may be one of another seed.
        new = not any(self._folder.glob("*.npz"))
        if new and not (path.exists() and read_rounds(path)):
            return 0
        if not path.exists():
            raise ValueError(
                f"{path}: the learner of buffer {self._folder} is gone; delete the buffer, or "
                "choose another data.root"
            )
        done = self._learner.load(path)
        for index in range(done * self._config.episodes):
            if not self._path(index).exists():
                raise ValueError(
                    f"{self._path(index)}: is gone, but the learner has learned from it; restore "
                    f"it, or delete {self._folder.parent}"
                )
        return done

    def run(self, progress: bool) -> None:
        """Deletes the episodes of unfinished rounds, then plays these rounds and learns from them.

        No other process may collect here.
        """
        done = self.restore()  # again: another process may just have ended
        if done >= self._rounds:
            return
        index = done * self._config.episodes
        while self._path(index).exists():
            self._path(index).unlink()
            index += 1
        for number in range(done):
            self._remember(number)
        count = self._config.episodes
        environments = envs.make_vec(self._task, count, horizon=self._length)
        total = (self._rounds - done) * count * self._length
        with progress_bar(
            f"collecting {self._task.id}", total=total, unit="step", show=progress
        ) as bar:
            for number in range(done, self._rounds):
                episodes = self._play(environments, number, bar)
                if not number:  # so that a killed first round can go on
                    self._learner.save(learner_path(self._folder), 0)
                for index, episode in zip(self._indices(number), episodes, strict=True):
                    write_collected(self._folder, index, episode, self._task)
                self._remember(number)
                self._learn(number)
                self._write_returns()
                self._learner.save(learner_path(self._folder), number + 1)
                last = self._replay.returns[self._replay.episodes - count : self._replay.episodes]
                bar.set_postfix({"return": f"{last.mean():.0f}"})
        environments.close()

    def _play(self, environments: Any, number: int, bar: Any) -> list[Episode]:
        """Plays the episodes of a round."""
        seeds = [start_seed(self._seed, index) for index in self._indices(number)]
        tasks, noise = episode_tasks(self._task, seeds), self._noise(number)
        params = envs.registry.parameters(tasks)
        rng = stream("td3 exploration", self._seed, number)
        disturbance = rng.standard_normal(environments.action_space.shape)

        def act(
            step: int, observation: np.ndarray, physics: np.ndarray
        ) -> tuple[np.ndarray, np.ndarray]:
            nonlocal disturbance
            own = self._learner.act(self._replay.told(observation, params))
            taken = own + noise[:, None] * disturbance
            # x' = m x + sqrt(1 - m^2) u keeps x at unit variance.
            fresh = rng.standard_normal(disturbance.shape)
            disturbance = NOISE_MEMORY * disturbance + np.sqrt(1 - NOISE_MEMORY**2) * fresh
            return taken, own

        start = environments.reset(seed=seeds, options={"tasks": tasks})
        played = run_batch(environments, start, act, self._repeat, self._length, bar)
        return [
            replace(each, extra={**each.extra, "noise": np.full((self._length + 1, 1), scale)})
            for each, scale in zip(played, noise, strict=True)
        ]

    def _remember(self, number: int) -> None:
        """Adds a round to the replay, read from its files, as a resumed collection reads it."""
        indices = self._indices(number)
        tasks = episode_tasks(self._task, [start_seed(self._seed, index) for index in indices])
        self._noises.append(self._noise(number))
        self._replay.add([datasets.read_episode(self._path(i)) for i in indices], tasks)

    def _learn(self, number: int) -> None:
        """Makes the updates of a round."""
        rng = stream("td3 updates", self._seed, number)
        updates = self._config.episodes * self._steps
        for first in range(0, updates, _UPDATES_AT_ONCE):
            some = min(_UPDATES_AT_ONCE, updates - first)
            self._learner.learn(self._replay.draw(some, self._config, rng))

    def _write_returns(self) -> None:
        """Writes a row for each episode: updates before it, noise, parameters and return."""
        names = envs.family_table.FAMILIES[self._task.name].parameters
        columns = [
            name if parameter.size == 1 else f"{name}_{index}"
            for name, parameter in names.items()
            for index in range(parameter.size)
        ]
        updates, count = self._config.episodes * self._steps, self._config.episodes
        noise = np.concatenate(self._noises)
        with returns_path(self._folder).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["episode", "updates", "noise", *columns, "return"])
            for index in range(self._replay.episodes):
                params = [f"{value:.6g}" for value in self._replay.params[index]]
                earned = f"{self._replay.returns[index]:.4f}"
                before = index // count * updates
                writer.writerow([index, before, noise[index], *params, earned])

    def _noise(self, number: int) -> np.ndarray:
        """Draws the standard deviation of the noise of each episode of a round."""
        rng = stream("td3 noise", self._seed, number)
        return rng.choice(NOISES, self._config.episodes, p=NOISE_SHARES)

    def _indices(self, number: int) -> Sequence[int]:
        count = self._config.episodes
        return range(number * count, (number + 1) * count)

    def _path(self, index: int) -> Path:
        return episode_path(self._folder, index, self._length)
