"""Reads whole trajectories of a cached buffer, and their rewards for any task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import envs
from datasets.cache_writer import FORMAT
from datasets.checksummed_rows import Rows
from datasets.hdf5_files import open_hdf5
from datasets.locks import read_lock
from datasets.relabelling import STORED, check_single, rewards_from
from datasets.reward_store import RewardStore
from envs import Task

_BUDGET = 1 << 30
_FIELDS = ("observation", "action", "reward", "physics", "demonstrator")


class Trajectories(NamedTuple):
    """Holds k whole trajectories of T steps, aligned so that action t was taken at observation t.

    Attributes:
        observation: (k, T, observation size) float32, rows 0..T-1 of the episodes.
        action: (k, T, action size) float32, rows 1..T.
    """

    observation: np.ndarray
    action: np.ndarray


class Store:
    """Serves trajectories from a cache, which it only reads; several processes may have one.

    Attributes:
        cached: number of episodes in the cache; `episodes` of them were drawn.
        digest: the same for caches of the same episodes in the same order, wherever they lie.
        lengths: (E,) transitions T of each trajectory.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        episodes: int | None = None,
        seed: int = 0,
        budget: int = _BUDGET,
    ) -> None:
        """Opens the cache.

        Args:
            cache: what `build_cache` returned.
            episodes: at most this many, drawn evenly with `seed`; None takes all.
            seed: of that draw.
            budget: bytes. Observations and actions are held in memory if they fit into it, and
                then rewards, as they come, while they fit into the rest.

        Raises:
            ValueError: the cache is missing, damaged or of an earlier format; or no episode is
                asked for.
        """
        if episodes is not None and episodes < 1:
            raise ValueError(f"episodes={episodes}; allowed: 1 or more, or None for all")
        path = Path(cache)
        try:
            with read_lock(path):
                with open_hdf5(path) as file:
                    if file.attrs.get("format") != FORMAT:
                        advice = "make it anew with datasets.build_cache"
                        raise ValueError(f"cache {cache}: of an earlier format; {advice}")
                    lengths, identity = file["episodes"][:]["length"], file.attrs["identity"]
                    domain = file.attrs.get("domain", "")
                    fields = [key for key in _FIELDS if key in file]
                rows = {field: Rows(path, field) for field in fields}
        except (OSError, KeyError) as error:
            raise ValueError(
                f"cache {cache}: missing or damaged ({error}); make it with datasets.build_cache"
            ) from error
        # An episode of T transitions has T + 1 rows; here is the number of its row 0.
        first_rows = np.cumsum(lengths + 1) - (lengths + 1)
        self.digest = _digest(lengths, rows)
        self.cached, chosen = len(lengths), np.arange(len(lengths))
        if episodes is not None and episodes < len(lengths):
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(len(lengths), episodes, replace=False))
        self.lengths, self._first_rows = lengths[chosen], first_rows[chosen]
        self._demonstrator, self._stored = rows.get("demonstrator"), rows["reward"]
        self._reward_store = RewardStore(path, identity, rows, domain)
        both = (rows["observation"], rows["action"])
        self._budget = budget - sum(array.nbytes for array in both)
        if self._budget >= 0:
            both = [array.read(0, len(array)) for array in both]
        self._observation, self._action = both
        self._rewards: dict[tuple[Task, str], np.ndarray | Rows] = {}  # by single task or family
        self._returns: dict[tuple[Task, str], np.ndarray] = {}

    @property
    def episodes(self) -> int:
        """Returns the number of trajectories E."""
        return len(self.lengths)

    @property
    def observation_size(self) -> int:
        """Returns how many numbers an observation has."""
        return self._observation.shape[1]

    @property
    def action_size(self) -> int:
        """Returns how many numbers an action has."""
        return self._action.shape[1]

    def load(self, indices: Sequence[int] | np.ndarray, steps: int | None = None) -> Trajectories:
        """Reads whole trajectories of equal length, or the first `steps` steps of each.

        Raises:
            ValueError: lengths differ, or one is below `steps`, or the cache is damaged.
        """
        indices = np.asarray(indices)
        length, starts = self._common_length(indices, steps), self._first_rows[indices]
        return Trajectories(
            self._gather(self._observation, starts, length),
            self._gather(self._action, starts + 1, length),
        )

    def last_observation(
        self, indices: Sequence[int] | np.ndarray, steps: int | None = None
    ) -> np.ndarray:
        """Returns the observation after the last step that `load` returns, (k, O) float32."""
        indices = np.asarray(indices)
        rows = self._first_rows[indices] + self._common_length(indices, steps)
        return self._gather(self._observation, rows, 1)[:, 0]

    def demonstrator(
        self, indices: Sequence[int] | np.ndarray, steps: int | None = None
    ) -> np.ndarray:
        """Returns the demonstrator's actions at the observations that `load` returns, (k, T, A).

        Raises:
            ValueError: the episodes have none; see also `load`.
        """
        if self._demonstrator is None:
            raise ValueError(
                "agent.imitate=demonstrator: the episodes hold no demonstrator's actions; collect "
                "some with data.algo=mppi_annealed, or give agent.imitate=taken"
            )
        indices = np.asarray(indices)
        starts = self._first_rows[indices] + 1  # row t holds the action at observation t - 1
        return self._gather(self._demonstrator, starts, self._common_length(indices, steps))

    def rewards(
        self,
        task: str | Task,
        indices: Sequence[int] | np.ndarray | None = None,
        mode: str = "exorl",
        steps: int | None = None,
    ) -> np.ndarray:
        """Returns the rewards of what `load` returns, (k, T) float32.

        Rewards that are missing are computed and kept.

        Args:
            task: a single task, or a member of a family.
            indices: (k,); None takes all.
            mode: see `datasets.relabel`; or `stored`, the rewards in the episodes, whatever task
                they are of.
            steps: T; None takes all.
        """
        return self.reward_table([envs.task(task)], indices, mode, steps)[0]

    def reward_table(
        self,
        tasks: Sequence[Task],
        indices: Sequence[int] | np.ndarray | None = None,
        mode: str = "exorl",
        steps: int | None = None,
    ) -> np.ndarray:
        """Returns the rewards of k trajectories under each of several tasks.

        Returns:
            (tasks, k, T) float32. See `rewards`.
        """
        indices = np.arange(self.episodes) if indices is None else np.asarray(indices)
        length = self._common_length(indices, steps)
        table = np.empty((len(tasks), len(indices), length), np.float32)
        for same, rows in _by_name(tasks):
            values = self._values(same[0], mode, self._first_rows[indices] + 1, length)[None]
            # Tasks along the first axis, beside episodes and steps.
            table[rows] = rewards_from(same, values, 2) if _derived(same[0], mode) else values
        return table

    def rewards_of(
        self,
        tasks: Sequence[Task],
        indices: Sequence[int] | np.ndarray,
        mode: str = "exorl",
        steps: int | None = None,
        first: int | np.ndarray = 0,
    ) -> np.ndarray:
        """Returns the rewards of k trajectories, each under a task of its own.

        Args:
            tasks: k of them.
            indices: (k,).
            mode: see `rewards`.
            steps: T; None takes all.
            first: the first step, one for all or (k,).

        Returns:
            (k, T) float32.
        """
        indices = np.asarray(indices)
        length = self._common_length(indices, steps)
        starts = self._first_rows[indices] + 1 + first  # row 0 is the reset
        rewards = np.empty((len(indices), length), np.float32)
        for same, rows in _by_name(tasks):
            values = self._values(same[0], mode, starts[rows], length)
            rewards[rows] = rewards_from(same, values, 1) if _derived(same[0], mode) else values
        return rewards

    def returns(self, task: str | Task, mode: str = "exorl") -> np.ndarray:
        """Returns the sum of the rewards of each whole trajectory, rows 1..T: (E,) float32."""
        key = (envs.task(task), mode)
        if key not in self._returns:
            sums = [
                self.rewards(key[0], [index], mode).sum(dtype=np.float64)
                for index in range(self.episodes)
            ]
            self._returns[key] = np.array(sums, np.float32)
        return self._returns[key]

    def relabel(
        self, tasks: Sequence[str | Task], mode: str = "exorl", progress: bool = True
    ) -> None:
        """Makes sure that rewards of `tasks`, all of one domain, lie beside the cache.

        Rewards are computed again, and a line says so, where anything has changed that decides
        them: the task, its code, MuJoCo.

        Raises:
            ValueError: the data set has no physics; the cache holds another domain's episodes;
                rewards cannot be written there; or stored rewards, which are of one task, are asked
                for under several.
        """
        if mode == STORED:
            self._check_stored([envs.task(task) for task in tasks])
            return
        names = dict.fromkeys(_name_of(envs.task(task)) for task in tasks)
        self._reward_store.relabel(list(names), mode, progress)

    def _check_stored(self, tasks: Sequence[Task]) -> None:
        """Raises a ValueError unless the stored rewards are those of one task."""
        others = len(dict.fromkeys(tasks)) - 1
        if others or tasks[0].hidden:
            what = f"{tasks[0].id} and {others} others" if others else f"the family {tasks[0].id}"
            raise ValueError(
                f"data.relabel={STORED}: the rewards in an episode are of one task, not of {what}; "
                "allowed: data.relabel=exorl or exact"
            )
        if (columns := self._stored.shape[1]) != 1:
            raise ValueError(
                f"data.relabel={STORED}: rewards in the episodes have {columns} columns, and which "
                "one is the task's is not known; allowed: episodes with one, or data.relabel=exorl"
            )

    def _values(self, task: Task, mode: str, starts: np.ndarray, length: int) -> np.ndarray:
        """Returns what is kept of `length` rows from each of `starts` on, (k, length, ...)."""
        values = self._gather(self._kept(task, mode), starts, length)
        return values[..., 0] if mode == STORED else values

    def _kept(self, task: Task, mode: str) -> np.ndarray | Rows:
        """Returns what is kept of all rows for a task: in memory while the budget lasts."""
        key = (_name_of(task), mode)
        if key not in self._rewards:
            rows = self._stored if mode == STORED else self._reward_store.rows(*key)
            if rows.nbytes <= self._budget:
                self._budget -= rows.nbytes
                rows = rows.read(0, len(rows))
            self._rewards[key] = rows
        return self._rewards[key]

    @staticmethod
    def _gather(kept: np.ndarray | Rows, starts: np.ndarray, length: int) -> np.ndarray:
        """Returns `length` rows from each of `starts` on, (k, length, ...)."""
        if isinstance(kept, np.ndarray):
            return kept[starts[:, None] + np.arange(length)]
        values = np.empty((len(starts), length, *kept.shape[1:]), kept.dtype)
        for k, start in enumerate(starts):
            kept.read(start, start + length, values[k])
        return values

    def _common_length(self, indices: np.ndarray, steps: int | None) -> int:
        """Returns the steps of trajectories that are read together."""
        lengths = np.unique(self.lengths[indices])
        if steps is not None:
            if lengths.min(initial=steps) < steps:
                needed = f"trajectories of at least {steps} steps are needed"
                raise ValueError(f"{needed}, the shortest has {lengths[0]}")
            return steps
        if len(lengths) != 1:
            raise ValueError(
                f"trajectories read together must be of one length, these have {lengths.tolist()}"
            )
        return int(lengths[0])


def _digest(lengths: np.ndarray, rows: dict[str, Rows]) -> str:
    """Returns 16 digits that tell the episodes of a cache from others."""
    checksums = {field: array.checksum for field, array in rows.items()}
    text = f"{lengths.tolist()} {sorted(checksums.items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _derived(task: Task, mode: str) -> bool:
    """Tells whether rewards of a task follow from what is kept of its family."""
    return bool(task.params) and mode != STORED


def _name_of(task: Task) -> Task:
    """Returns the task under which rewards are kept: its family, of a member with parameters.

    Raises:
        ValueError: the task is a family itself.
    """
    check_single(task)
    return Task(task.name)


def _by_name(tasks: Sequence[Task]) -> Iterator[tuple[list[Task], list[int]]]:
    """Groups tasks by name, since these share stored rewards; yields each group and its places."""
    places: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        places.setdefault(task.name, []).append(place)
    for same in places.values():
        yield [tasks[place] for place in same], same
