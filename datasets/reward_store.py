"""Keeps the rewards of a cache's rows, a file for each task, and computes missing ones.

A family with parameters has one file for all its members: a few numbers of each row, from which the
reward of any member follows (`envs.domain.FamilyReward`). More members need no more room.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.checksummed_rows import Rows, RowWriter
from datasets.hdf5_files import new_hdf5, open_hdf5, reserve, unwritable
from datasets.locks import write_lock
from datasets.progress import progress_bar
from datasets.relabelling import MODES, check_code, made_by, measure_many
from envs import Task
from envs.gymnasium_tasks import folder_of, is_gymnasium
from envs.registry import pays_itself, unknown

_ROWS_AT_ONCE = 1 << 14


class RewardStore:
    """Serves rewards of all rows of one cache, of any single task or family of its domain.

    The rewards of a task lie in `<cache>.rewards_<mode>/<task>.h5`. The file names the cache and
    the code that they come from. Rewards of another cache or of other code are computed again.
    """

    def __init__(self, cache: Path, identity: str, rows: Mapping[str, Rows], domain: str) -> None:
        """Reads nothing yet.

        Args:
            cache: the path of the cache.
            identity: of the cache's build.
            rows: the cache's `action` and `observation`, and `physics` where its episodes have any.
            domain: whose episodes the cache holds; empty where they were not checked to be of one.
        """
        self._cache, self._identity, self._rows, self._domain = cache, identity, rows, domain
        self._total_rows = len(rows["action"])

    def relabel(self, tasks: Sequence[Task], mode: str = "exorl", progress: bool = True) -> None:
        """Makes sure that the rewards of `tasks`, all of one domain, are kept.

        Args:
            tasks: single tasks, and families with parameters.
            mode: see `datasets.relabel`.
            progress: show a progress bar.

        Raises:
            ValueError: an unknown mode; an environment of gymnasium that pays its own rewards; the
                data set has no physics, or the cache holds another domain's episodes; or rewards
                cannot be written beside the cache.
        """
        if mode not in MODES:
            raise unknown("relabel mode", mode, MODES)
        tasks = list(dict.fromkeys(tasks))
        self._check_domain(tasks)
        if pays_itself(tasks[0]):
            raise ValueError(
                f"task {tasks[0].id!r}: its environment pays, so no reward can be computed; "
                "data.relabel=stored takes those in the episodes"
            )
        if not self._missing(tasks, mode):
            return
        if _state(tasks[0]) not in self._rows:
            # Rewards in an episode are of one task.
            several = len(tasks) > 1 or tasks[0].hidden
            advice = (
                "allowed: episodes with physics"
                if several
                else "data.relabel=stored takes those in the episodes"
            )
            raise ValueError(
                f"{self._cache}: its episodes have no physics, "
                f"so rewards of other tasks cannot be computed; {advice}"
            )
        check_code(tasks[0].domain)
        folder = self._folder(mode)
        try:
            with write_lock(folder.with_name(f"{folder.name}.lock")) as held:
                folder.mkdir(exist_ok=True)
                reasons = self._missing(tasks, mode)  # what no other process computed meanwhile
                self._print_reasons({task: reason for task, reason in reasons.items() if reason})
                if reasons:
                    self._compute(list(reasons), mode, held, progress)
        except OSError as error:
            raise unwritable(self._cache, error) from error

    def rows(self, task: Task, mode: str) -> Rows:
        """Returns what `measure_many` computes of all rows, computed where it is missing.

        Args:
            task: a single task, or a family with parameters.
            mode: see `datasets.relabel`.

        Raises:
            ValueError: see `relabel`; or another process keeps other rewards in the same place.
        """
        self.relabel([task], mode, progress=False)
        path = self._path(task, mode)
        rows = Rows(path, _dataset(task))
        if self._kept(task, mode)[0] < self._total_rows:
            raise ValueError(
                f"{path}: another process replaces these rewards by those of "
                f"other code or episodes; give each a data.cache=<folder> of its own"
            )
        return rows

    def _check_domain(self, tasks: Sequence[Task]) -> None:
        """Raises a ValueError if a task is not of the cache's domain: sizes may be the same."""
        domain = self._domain or tasks[0].domain
        for task in tasks:
            if task.domain != domain:
                raise ValueError(
                    f"{self._cache}: its episodes are of {domain}, but task {task.id} is of "
                    f"{task.domain}; allowed: tasks of {domain}"
                )

    def _path(self, task: Task, mode: str) -> Path:
        return self._folder(mode) / f"{folder_of(task.id)}.h5"

    def _folder(self, mode: str) -> Path:
        return self._cache.with_name(f"{self._cache.stem}.rewards_{mode}")

    def _missing(self, tasks: Sequence[Task], mode: str) -> dict[Task, str]:
        """Returns the tasks that lack rewards of some rows, each with what `_kept` says of it."""
        kept = {task: self._kept(task, mode) for task in tasks}
        return {task: reason for task, (rows, reason) in kept.items() if rows < self._total_rows}

    def _kept(self, task: Task, mode: str) -> tuple[int, str]:
        """Returns how many rows have valid rewards; and, if rewards are not valid, the reason."""
        path = self._path(task, mode)
        if not path.exists():
            return 0, ""
        try:
            with open_hdf5(path) as file:
                attributes, rows = dict(file.attrs), len(file[_dataset(task)])
        except (OSError, KeyError) as error:
            return 0, f"are unreadable ({error})"
        if attributes.get("cache") != self._identity:
            return 0, ""  # the cache was built anew, which a line said then
        before, now = json.loads(attributes.get("made_by", "{}")), made_by(task)
        if not before:
            return 0, "do not say what computed them"
        changed = [key for key in now if before.get(key) != now[key]]
        return (0, f"were computed with another {', '.join(changed)}") if changed else (rows, "")

    def _print_reasons(self, reasons: Mapping[Task, str]) -> None:
        """Prints why rewards are computed again, a line for each reason."""
        for reason, count in Counter(reasons.values()).items():
            first = next(task.id for task, other in reasons.items() if other == reason)
            what = f"{count} tasks" if count > 1 else first
            tqdm.write(f"{self._cache}: rewards of {what} {reason}: computed again")

    def _compute(self, tasks: Sequence[Task], mode: str, held: bool, progress: bool) -> None:
        """Writes the tasks' files with the rows that they lack; all files are open at once.

        They are few: a domain has less than a dozen, and all members of a family share a file. A
        file is replaced as a whole, so that nobody reads half of one.
        """
        # Episodes that were appended to the cache come after the rows that have rewards.
        done = min(self._kept(task, mode)[0] for task in tasks)
        with ExitStack() as stack:
            samples = self._measure(0, min(1, self._total_rows), tasks, mode)
            writers = [
                self._writer(task, mode, done, sample, held, stack)
                for task, sample in zip(tasks, samples, strict=True)
            ]
            self._write(writers, tasks, mode, done, progress)

    def _writer(
        self, task: Task, mode: str, done: int, sample: np.ndarray, held: bool, stack: ExitStack
    ) -> RowWriter:
        """Starts a task's new file with the rewards that are known, and closes it with `stack`.

        Args:
            task: the task.
            mode: of relabelling.
            done: rows that are known.
            sample: (1, ...), what one row takes.
            held: whether no other process writes here.
            stack: closes the file.
        """
        path = self._path(task, mode)
        file = stack.enter_context(new_hdf5(path, alone=held))
        reserve(file, self._total_rows * sample.nbytes)
        file.attrs["cache"], file.attrs["made_by"] = self._identity, json.dumps(made_by(task))
        shape = (self._total_rows, *sample.shape[1:])
        writer = RowWriter(file, _dataset(task), shape, sample.dtype)
        if done:
            writer.append(Rows(path, _dataset(task)).read(0, done))
        return writer

    def _write(
        self,
        writers: Sequence[RowWriter],
        tasks: Sequence[Task],
        mode: str,
        done: int,
        progress: bool,
    ) -> None:
        """Computes and writes the rewards of rows from `done` on."""
        label = f"{len(tasks)} tasks" if len(tasks) > 1 else tasks[0].id
        total = self._total_rows - done
        with progress_bar(f"relabelling {label}", total=total, unit="row", show=progress) as bar:
            for start in range(done, self._total_rows, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, self._total_rows)
                rewards = self._measure(start, stop, tasks, mode)
                for writer, reward in zip(writers, rewards, strict=True):
                    writer.append(reward)
                bar.update(stop - start)
        for writer in writers:
            writer.finish()

    def _measure(self, start: int, stop: int, tasks: Sequence[Task], mode: str) -> list[np.ndarray]:
        """Computes what is kept of rows start..stop-1, for each task."""
        taken = self._rows["action"].read(start, stop) if mode == "exact" else None
        return measure_many(self._rows[_state(tasks[0])].read(start, stop), tasks, mode, taken)


def _state(task: Task) -> str:
    """Returns the array of the cache that rewards of a task's domain are computed from."""
    return "observation" if is_gymnasium(task.domain) else "physics"


def _dataset(task: Task) -> str:
    """Returns the name of a file's array: rewards, or what rewards of a family follow from."""
    return "measured" if task.hidden else "reward"
