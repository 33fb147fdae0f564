"""Trajectories and rewards of a cached buffer, read whole."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import envs
from datasets.cache import create_rows
from datasets.files import locked, new_hdf5, open_hdf5, reserve, unwritable
from datasets.relabelling import MODES, check_code, made_by, relabel_many
from datasets.rows import Rows
from envs import Task
from envs.registry import unknown

_BUDGET = 1 << 30
_ROWS_AT_ONCE = 1 << 14
_TASKS_AT_ONCE = 64  # files open at once
_REWARD_CHUNK = 1 << 14


class Trajectories(NamedTuple):
    """k whole trajectories of T steps, aligned so that action t was taken at observation t.

    Attributes:
        observation: (k, T, observation size) float32, rows 0..T-1 of the episodes.
        action: (k, T, action size) float32, rows 1..T.
    """

    observation: np.ndarray
    action: np.ndarray


class Store:
    """A read-only view of a cache; several processes may hold one.

    Attributes:
        episodes: number of trajectories E.
        cached: episodes in the cache, of which these are drawn.
        lengths: (E,) transitions T of each.
        observation_size, action_size: of one row.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        episodes: int | None = None,
        seed: int = 0,
        budget: int = _BUDGET,
    ) -> None:
        """Open the cache.

        Args:
            cache: what `build_cache` returned.
            episodes: at most this many, drawn evenly with `seed`; None takes all.
            seed: of that draw.
            budget: bytes; a data set (observations and actions, and rewards as they come) below
                this is held in memory.

        Raises:
            ValueError: the cache is missing or damaged.
        """
        self._path = Path(cache)
        try:
            with locked(self._path, shared=True):
                with open_hdf5(self._path) as file:
                    lengths, self._identity = file["length"][:], file.attrs["identity"]
                    fields = [
                        field for field in ("observation", "action", "physics") if field in file
                    ]
                self._rows = {field: Rows(self._path, field) for field in fields}
        except (OSError, KeyError) as error:
            raise ValueError(
                f"cache {cache}: missing or damaged ({error}); make it with datasets.build_cache"
            ) from error
        starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        self._total_rows = int(starts[-1])
        self.cached, chosen = len(lengths), np.arange(len(lengths))
        if episodes is not None and episodes < len(lengths):
            chosen = np.sort(
                np.random.default_rng(seed).choice(len(lengths), episodes, replace=False)
            )
        self.lengths, self._starts = lengths[chosen], starts[:-1][chosen]
        read = [self._rows[field] for field in ("observation", "action")]
        self._budget = budget - sum(rows.nbytes for rows in read)
        self._held = (
            [rows.read(0, self._total_rows) for rows in read] if self._budget >= 0 else None
        )
        self._rewards: dict[tuple[Task, str], np.ndarray | Rows] = {}
        self._returns: dict[tuple[Task, str], np.ndarray] = {}

    @property
    def episodes(self) -> int:
        """Number of trajectories."""
        return len(self.lengths)

    @property
    def observation_size(self) -> int:
        """Numbers of one observation."""
        return self._rows["observation"].shape[1]

    @property
    def action_size(self) -> int:
        """Numbers of one action."""
        return self._rows["action"].shape[1]

    def load(self, indices: Sequence[int] | np.ndarray, steps: int | None = None) -> Trajectories:
        """Whole trajectories, which must be of equal length, or the first `steps` steps of each.

        Raises:
            ValueError: lengths differ, or one is below `steps`, or the cache is damaged.
        """
        indices = np.asarray(indices)
        length = self._common_length(indices, steps)
        if self._held:
            rows = self._starts[indices][:, None] + np.arange(length)
            return Trajectories(self._held[0][rows], self._held[1][rows + 1])
        observation = np.empty((len(indices), length, self.observation_size), np.float32)
        action = np.empty((len(indices), length, self.action_size), np.float32)
        for place, start in enumerate(self._starts[indices]):
            self._rows["observation"].read(start, start + length, observation[place])
            self._rows["action"].read(start + 1, start + length + 1, action[place])
        return Trajectories(observation, action)

    def rewards(
        self,
        task: str | Task,
        indices: Sequence[int] | np.ndarray | None = None,
        mode: str = "exorl",
        steps: int | None = None,
    ) -> np.ndarray:
        """Rewards of what `load` returns, (k, T) float32. Computed and kept where missing."""
        indices = np.arange(self.episodes) if indices is None else np.asarray(indices)
        length = self._common_length(indices, steps)
        rows = self._reward_rows(envs.task(task), mode)
        starts = self._starts[indices] + 1
        if isinstance(rows, np.ndarray):
            return rows[starts[:, None] + np.arange(length)]
        reward = np.empty((len(indices), length), np.float32)
        for place, start in enumerate(starts):
            rows.read(start, start + length, reward[place])
        return reward

    def returns(self, task: str | Task, mode: str = "exorl") -> np.ndarray:
        """Sum of rewards of each trajectory, rows 1..T: (E,) float32."""
        key = (envs.task(task), mode)
        if key not in self._returns:
            rows = self._reward_rows(*key)
            if isinstance(rows, np.ndarray):
                bounds = np.stack(
                    [self._starts + 1, self._starts + 1 + self.lengths], axis=1
                ).ravel()
                sums = np.add.reduceat(np.append(rows, 0).astype(np.float64), bounds)[::2]
            else:
                spans = zip(self._starts + 1, self._starts + 1 + self.lengths, strict=True)
                sums = np.array(
                    [rows.read(start, stop).sum(dtype=np.float64) for start, stop in spans]
                )
            self._returns[key] = sums.astype(np.float32)
        return self._returns[key]

    def relabel(
        self, tasks: Sequence[str | Task], mode: str = "exorl", progress: bool = True
    ) -> None:
        """Make sure that rewards for `tasks`, all of one domain, lie beside the cache.

        Rewards are computed again, which is said, where anything has changed that decides them: the
        task, its code, MuJoCo.

        Raises:
            ValueError: the data set has no physics, or physics of another domain; or rewards cannot
                be written there.
        """
        if mode not in MODES:
            raise unknown("relabel mode", mode, MODES)
        unique = dict.fromkeys(envs.task(task) for task in tasks)
        kept = {task: self._kept(task, mode) for task in unique}
        missing = [task for task, (rows, _) in kept.items() if rows < self._total_rows]
        for why, count in Counter(why for _, why in kept.values() if why).items():
            what = (
                f"{count} tasks"
                if count > 1
                else next(task.id for task in kept if kept[task][1] == why)
            )
            tqdm.write(f"{self._path}: rewards of {what} {why}: computed again")
        for first in range(0, len(missing), _TASKS_AT_ONCE):
            self._relabel(missing[first : first + _TASKS_AT_ONCE], mode, progress)

    def _relabel(self, tasks: Sequence[Task], mode: str, progress: bool) -> None:
        """Compute the rows that the tasks' files lack; a file is replaced whole, so nobody sees
        half of one.
        """
        if "physics" not in self._rows:
            raise ValueError(
                f"{self._path}: its episodes have no physics, so rewards of other tasks cannot be computed"
            )
        check_code(tasks[0].domain)
        done = min(self._kept(task, mode)[0] for task in tasks)
        try:
            self._write_rewards(tasks, mode, done, progress)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def _write_rewards(self, tasks: Sequence[Task], mode: str, done: int, progress: bool) -> None:
        physics, files = self._rows["physics"], [self._reward_file(task, mode) for task in tasks]
        files[0].parent.mkdir(exist_ok=True)
        with ExitStack() as stack:
            data = []
            for task, path in zip(tasks, files, strict=True):
                output = stack.enter_context(
                    new_hdf5(path, path.with_suffix(f".part{os.getpid()}"))
                )
                reserve(output, self._total_rows * 4 + _REWARD_CHUNK * 4)
                output.attrs["cache"], output.attrs["made_by"] = (
                    self._identity,
                    json.dumps(made_by(task)),
                )
                data.append(
                    create_rows(output, "reward", (self._total_rows,), np.float32, _REWARD_CHUNK)
                )
                if done:
                    data[-1][:done] = Rows(path, "reward").read(0, done)
            label = (
                f"relabelling {len(tasks)} tasks"
                if len(tasks) > 1
                else f"relabelling {tasks[0].id}"
            )
            with tqdm(
                total=self._total_rows - done,
                desc=label,
                unit="row",
                disable=not progress,
                mininterval=0.5,
            ) as bar:
                for start in range(done, self._total_rows, _ROWS_AT_ONCE):
                    stop = min(start + _ROWS_AT_ONCE, self._total_rows)
                    action = self._rows["action"].read(start, stop) if mode == "exact" else None
                    for output, reward in zip(
                        data,
                        relabel_many(physics.read(start, stop), tasks, mode, action),
                        strict=True,
                    ):
                        output[start:stop] = reward
                    bar.update(stop - start)

    def _reward_file(self, task: Task, mode: str) -> Path:
        return self._path.with_name(f"{self._path.stem}.rewards_{mode}") / f"{task.id}.h5"

    def _kept(self, task: Task, mode: str) -> tuple[int, str]:
        """Returns rows whose rewards are known; and, if there are rewards that do not count, why
        not.
        """
        path = self._reward_file(task, mode)
        if not path.exists():
            return 0, ""
        try:
            with open_hdf5(path) as file:
                rows, attributes = len(file["reward"]), dict(file.attrs)
        except (OSError, KeyError) as error:
            return 0, f"are unreadable ({error})"
        if (
            attributes.get("cache") != self._identity
        ):  # the cache was built anew, which was said then
            return 0, ""
        before, now = json.loads(attributes.get("made_by", "{}")), made_by(task)
        changed = [key for key in now if before.get(key) != now[key]]
        if not before:
            return 0, "do not say what computed them"
        return (0, f"were computed with another {', '.join(changed)}") if changed else (rows, "")

    def _reward_rows(self, task: Task, mode: str) -> np.ndarray | Rows:
        """Rewards of all rows: in memory while the budget lasts, else on disk."""
        key = (task, mode)
        if key not in self._rewards:
            self.relabel([task], mode, progress=False)
            rows = Rows(self._reward_file(task, mode), "reward")
            if self._kept(task, mode)[0] < self._total_rows:
                raise ValueError(
                    f"{self._reward_file(task, mode)}: another process replaces these rewards by those of "
                    f"other code or episodes; give each a data.cache=<folder> of its own"
                )
            if rows.nbytes <= self._budget:
                self._budget -= rows.nbytes
                rows = rows.read(0, len(rows))
            self._rewards[key] = rows
        return self._rewards[key]

    def _common_length(self, indices: np.ndarray, steps: int | None) -> int:
        lengths = np.unique(self.lengths[indices])
        if steps is not None:
            if lengths.min(initial=steps) < steps:
                said = f"trajectories of at least {steps} steps are needed"
                raise ValueError(f"{said}, the shortest has {lengths[0]}")
            return steps
        if len(lengths) != 1:
            raise ValueError(
                f"trajectories read together must be of one length, these have {lengths.tolist()}"
            )
        return int(lengths[0])
