"""Finds and reads the checkpoints of a run.

    <run>/checkpoints/<step>/{params,optimizer,description,metrics}
    <run>/checkpoints/<step>/SHA256SUMS

`description` holds the JSON spec of the agent, `metrics` the loss. A step without its SHA256SUMS
is treated as damaged. Nothing here unpickles: arrays are zarr's, the rest is JSON.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from agentic_transformer.earlier_settings import with_defaults
from agentic_transformer.learners import find_learner
from agentic_transformer.run_files import CHECKPOINTS
from agentic_transformer.settings import differing, flat
from agentic_transformer.training import checksums, distributed, old_names
from agentic_transformer.training.checkpoint_arrays import read_arrays
from agentic_transformer.training.state import TrainState


class CheckpointReader:
    """Finds the whole checkpoints of one run, and restores what they hold."""

    def __init__(self, run: Path) -> None:
        """Takes the run's folder; nothing is read yet."""
        self.folder = (run / CHECKPOINTS).resolve()

    def path(self, step: int) -> Path:
        """Returns the folder of a checkpoint, which need not be there."""
        return self.folder / str(step)

    def newest(self) -> int:
        """Returns the newest whole step, and prints what is wrong with newer ones.

        Raises:
            ValueError: there is none.
        """
        step = self._find_newest()
        if step is None:
            run = self.folder.parent
            if (run / "0").is_dir():
                raise ValueError(
                    f"{run} is the folder of a sweep; allowed: a job of it, {run / '0'}"
                )
            raise ValueError(
                f"no checkpoint in {self.folder}; train the run first: python -m experiments.train"
            )
        return step

    def find(self, which: str) -> int:
        """Returns the step of a whole checkpoint.

        Args:
            which: "newest", "best" (by its loss), or a step.

        Raises:
            ValueError: there is none, or "best" is asked for and the losses of the run's learner
                cannot be compared.
        """
        if which == "newest":
            return self.newest()
        whole = [step for step in self._steps() if self._is_whole(step)]
        if which == "best" and whole:
            self._check_loss_ranks(whole)
        best = self._best_first(whole)[:1]
        found = best if which == "best" else [step for step in whole if str(step) == which]
        if not found:
            there = ", ".join(map(str, whole)) or "none"
            raise ValueError(f"no checkpoint {which} in {self.folder}; whole ones there: {there}")
        return found[0]

    def spec(self, step: int) -> dict[str, Any]:
        """Returns the JSON spec that a checkpoint holds, with current names and all settings.

        Raises:
            ValueError: the checkpoint is not there.
        """
        with self._reading(step):
            stored = _read_json_item(self.path(step) / "description")
        current = old_names.current_spec(stored)
        if current != stored:
            old_names.warn(self.path(step))
        return with_defaults(current)

    def params(self, step: int, like: Any) -> Any:
        """Returns a checkpoint's parameters, on however many devices.

        Args:
            step: which checkpoint.
            like: tree of arrays, or of their shapes and types, with the shardings wanted.

        Raises:
            ValueError: an array is missing, unknown, or has another shape or type than in `like`,
                or the checkpoint is not there.
        """
        with self._reading(step):
            return read_arrays(self.path(step) / "params", like)

    def state(self, step: int, like: TrainState, spec: dict[str, Any]) -> TrainState:
        """Returns a checkpoint's train state, on however many devices and processes.

        Args:
            step: which checkpoint.
            like: a train state, or its shapes and types, with the shardings wanted.
            spec: the spec that the checkpoint must have.

        Raises:
            ValueError: the checkpoint has another spec or no optimizer, or an array is missing,
                unknown, or has another shape or type than in `like`.
        """
        path = self.path(step)
        # Both as JSON gives them back: a tuple becomes a list.
        there, here = (flat(json.loads(json.dumps(one))) for one in (self.spec(step), spec))
        # Values that the data decide come last, since they differ for another agent too.
        for key in sorted(differing(there, here), key=_of_data):
            difference = f"{key} is {there.get(key)} there and {here.get(key)} here"
            other = "was made with other data" if _of_data(key) else "is another agent's"
            raise ValueError(f"{path} {other}: {difference}")
        if not (path / "optimizer").exists():
            raise ValueError(
                f"{path} is without its optimizer: it can be evaluated, not trained further"
            )
        # The step number is the folder's name; its array is replicated like `like.step`.
        number = jax.make_array_from_callback((), like.step.sharding, lambda _: jnp.int32(step))
        params = read_arrays(path / "params", like.params)
        return TrainState(number, params, read_arrays(path / "optimizer", like.optimizer))

    def digest(self, step: int) -> str:
        """Returns the SHA-256 of all that a checkpoint holds.

        Raises:
            ValueError: the checkpoint is not there.
        """
        with self._reading(step):
            return checksums.digest(self.path(step))

    def export(self, step: int, run: Path) -> Path:
        """Copies a checkpoint to another run folder without its optimizer, a third of the size.

        Returns:
            The copy's folder.

        Raises:
            OSError: the copy differs from what was copied.
            ValueError: the checkpoint is not there.
        """
        original, path = self.path(step), run / CHECKPOINTS / str(step)
        left_out = shutil.ignore_patterns("optimizer", checksums.SUMS_FILE)
        with self._reading(step):
            shutil.copytree(original, path, ignore=left_out)
            checksums.write(path)
            changed = checksums.listed(path).items() - checksums.listed(original).items()
        if changed:
            raise OSError(f"{path} is not a copy of {original}: {min(changed)[0]} differs")
        return path

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Replaces an error of the block by one that says that the checkpoint is gone, if it is."""
        try:
            yield
        except Exception as error:
            if self.path(step).is_dir():
                raise
            # A run that still trains removes old checkpoints, also one that was just found.
            raise ValueError(
                f"{self.path(step)} is not there, or no longer: a run that still trains removes "
                "old checkpoints; start again, or name a newer one"
            ) from error

    def _find_newest(self, set_aside: Callable[[int], Path] | None = None) -> int | None:
        """Finds the newest whole step in process 0; renames newer ones to `set_aside(step)`.

        Every process must call this.
        """
        found = -1  # a number, so that it can be broadcast
        steps = self._steps() if distributed.is_first() else []
        while steps and found < 0:
            step = steps.pop()
            if self._is_whole(step):
                found = step
            elif step not in (there := self._steps()):
                steps = there  # a run that still trains removed it, and has newer ones
            elif set_aside:
                self.path(step).rename(set_aside(step))
        found = distributed.broadcast(found)
        return None if found < 0 else found

    def _is_whole(self, step: int) -> bool:
        """Returns whether a checkpoint is as it was written; else prints what is wrong with it.

        Nothing is printed about one that is gone: a run that still trains may have removed it.
        """
        try:
            problem = checksums.problem(self.path(step))
        except FileNotFoundError as error:
            problem = str(error)
        if problem and self.path(step).exists():
            print(
                f"warning: checkpoint {step} is not whole: {problem}", file=sys.stderr, flush=True
            )
        return not problem

    def _check_loss_ranks(self, steps: list[int]) -> None:
        """Raises a ValueError if the run's losses do not tell which of some checkpoints is best."""
        spec = self.spec(steps[-1])
        if "agent" not in spec or find_learner(learner := spec["agent"]["learner"]).loss_ranks:
            return
        raise ValueError(
            f"{self.folder.parent} has no best checkpoint: losses of agent.learner={learner} at "
            "different steps cannot be compared; "
            f"allowed: newest, or one of {', '.join(map(str, steps))}"
        )

    def _best_first(self, steps: list[int]) -> list[int]:
        """Sorts steps by their loss, newer ones first among equals, unreadable losses last."""

        def loss(step: int) -> float:
            try:
                return float(_read_json_item(self.path(step) / "metrics")["loss"])
            except (OSError, ValueError, KeyError, TypeError):
                return math.inf

        return sorted(steps, key=lambda step: (loss(step), -step))

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdecimal())


def _of_data(key: str) -> bool:
    """Returns whether the training data alone decide a value of an agent's spec."""
    return key.partition(".")[0] in ("best_return", "normalizer")


def _read_json_item(item: Path) -> Any:
    return json.loads((item / "metadata").read_text())
