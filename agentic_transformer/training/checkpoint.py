"""Saves and restores a run: the train state by step, a JSON spec of the agent, and the loss.

    <run>/checkpoints/<step>/{params,optimizer,description,metrics}   orbax, all processes
    <run>/checkpoints/<step>/SHA256SUMS                               process 0, last of all

`description` holds the spec. A step without its SHA256SUMS does not count. Nothing here unpickles:
arrays are zarr's, the rest is JSON.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from agentic_transformer.training import checksums, distributed, old_names
from agentic_transformer.training.arrays import check_arrays, read_arrays
from agentic_transformer.training.literal_path import LiteralPath
from agentic_transformer.training.state import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"
"""Part of a folder's name while it is written (orbax's) or removed (ours)."""


class Checkpoints:
    """Saves the checkpoints of one run, finds them and restores them.

    Orbax's AsyncCheckpointer writes in the background. Its CheckpointManager is not used to keep
    and remove checkpoints, for it breaks four promises (orbax 0.11). It changes files of a step
    after its last callback, so that no checksum could cover them. It removes older steps before the
    new one could be opened and checked. It cannot start beside a step whose metrics are damaged. It
    overwrites the folder of a step that it does not know.
    """

    def __init__(self, run: Path, keep: int = 2, keep_best: int = 0) -> None:
        """Prepares to read and write; nothing is written yet.

        Args:
            run: the run's folder.
            keep: how many of the newest checkpoints stay.
            keep_best: how many checkpoints with the smallest loss stay besides.
        """
        self.folder = (run / "checkpoints").resolve()
        self._keep, self._keep_best = keep, keep_best
        self._checkpointer = ocp.AsyncCheckpointer(_handler())
        self._background = ThreadPoolExecutor(max_workers=1)
        self._pending: Future | None = None

    def open(self) -> int | None:
        """Makes the folder ready for training and returns the newest whole step, if there is one.

        Removes what killed saves left behind. Renames a newer step that is not whole to
        `damaged-<step>`, and prints what is wrong with it.
        """
        if distributed.is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for remains in self.folder.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(remains)
        return self._newest(lambda step: _unused(self.folder / f"damaged-{step}"))

    def newest(self) -> int:
        """Returns the newest whole step, and prints what is wrong with newer ones.

        Raises:
            ValueError: there is none.
        """
        step = self._newest()
        if step is None:
            raise ValueError(
                f"no checkpoint in {self.folder}; train the run first: python -m experiments.train"
            )
        return step

    def find(self, which: str) -> int:
        """Returns the step of a whole checkpoint.

        Args:
            which: "newest", "best" (by its loss), or a step.

        Raises:
            ValueError: there is none.
        """
        if which == "newest":
            return self.newest()
        whole = [step for step in self._steps() if self._is_whole(step)]
        best = self._best_first(whole)[:1]
        found = best if which == "best" else [step for step in whole if str(step) == which]
        if not found:
            there = ", ".join(map(str, whole)) or "none"
            raise ValueError(f"no checkpoint {which} in {self.folder}; whole ones there: {there}")
        return found[0]

    def save(self, state: TrainState, spec: dict[str, Any], loss: float) -> None:
        """Starts to write a checkpoint of the state's step; the state may be donated at once.

        Args:
            state: train state, sharded over all processes.
            spec: JSON values that describe the agent.
            loss: the number by which the best checkpoint is known.

        Raises:
            OSError: the checkpoint before this one could not be written, or not be read back.
            ValueError: there is a checkpoint of that step.
        """
        self.wait()
        path = self.folder / str(int(state.step))
        if path.exists():
            raise ValueError(f"{path} is there already, and stays as it is")
        arrays = {"params": state.params, "optimizer": state.optimizer}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
        items = ocp.args.Composite(
            **{name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()},
            description=ocp.args.JsonSave(spec),
            metrics=ocp.args.JsonSave({"loss": loss}),
        )
        try:
            # It returns once the arrays are copied to host memory, and writes them afterwards.
            self._checkpointer.save(LiteralPath(path), args=items)
        except Exception as error:
            self._give_up(path, error)
        self._pending = self._background.submit(self._commit, path, shapes)

    def wait(self) -> None:
        """Waits until all is written.

        Raises:
            OSError: it could not be written, or what was written cannot be read back.
        """
        if self._pending:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits until all is written, and frees the threads.

        Raises:
            OSError: see `wait`.
        """
        self.wait()
        self._background.shutdown()
        self._checkpointer.close()

    def spec(self, step: int) -> dict[str, Any]:
        """Returns the JSON spec that a checkpoint holds, with today's names."""
        stored = _read_json(self.folder / str(step) / "description")
        current = old_names.current_spec(stored)
        if current != stored:
            old_names.warn(self.folder / str(step))
        return current

    def params(self, step: int, like: Any) -> Any:
        """Returns a checkpoint's parameters, on however many devices.

        Args:
            step: which checkpoint.
            like: tree of arrays, or of their shapes and types, with the shardings wanted.

        Raises:
            ValueError: an array is missing, unknown, or has another shape or type than in `like`.
        """
        return read_arrays(self.folder / str(step) / "params", like)

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
        path = self.folder / str(step)
        there, here = _flat(self.spec(step)), _flat(spec)
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                difference = f"{key} is {there.get(key)} there and {here.get(key)} here"
                raise ValueError(f"{path} is another agent's: {difference}")
        if not (path / "optimizer").exists():
            raise ValueError(
                f"{path} is without its optimizer: it can be evaluated, not trained further"
            )
        # The step is the folder's name. It is laid out like the rest, for all processes.
        number = jax.make_array_from_callback((), like.step.sharding, lambda _: jnp.int32(step))
        params = read_arrays(path / "params", like.params)
        return TrainState(number, params, read_arrays(path / "optimizer", like.optimizer))

    def digest(self, step: int) -> str:
        """Returns the SHA-256 of all that a checkpoint holds."""
        return checksums.digest(self.folder / str(step))

    def export(self, step: int, run: Path) -> Path:
        """Copies a checkpoint to another run folder without its optimizer, a third of the size.

        Returns:
            The copy's folder.

        Raises:
            OSError: the copy differs from what was copied.
        """
        original, path = self.folder / str(step), run / "checkpoints" / str(step)
        # Cloud storage has a file that names the folder of the save. SHA256SUMS replaces it here.
        left_out = shutil.ignore_patterns("optimizer", "commit_success.txt", checksums.NAME)
        shutil.copytree(original, path, ignore=left_out)
        checksums.write(path)
        changed = checksums.listed(path).items() - checksums.listed(original).items()
        if changed:
            raise OSError(f"{path} is not a copy of {original}: {min(changed)[0]} differs")
        return path

    def _newest(self, set_aside: Callable[[int], Path] | None = None) -> int | None:
        """Finds the newest whole step in process 0; renames newer ones to `set_aside(step)`."""
        found = -1  # agreed upon as a number
        for step in reversed(self._steps() if distributed.is_first() else []):
            if self._is_whole(step):
                found = step
                break
            if set_aside:
                (self.folder / str(step)).rename(set_aside(step))
        found = distributed.agree(found)
        return None if found < 0 else found

    def _is_whole(self, step: int) -> bool:
        """Returns whether a checkpoint is as it was written; else prints what is wrong with it."""
        problem = checksums.problem(self.folder / str(step))
        if problem:
            print(f"checkpoint {step} is not whole: {problem}", file=sys.stderr, flush=True)
        return not problem

    def _best_first(self, steps: list[int]) -> list[int]:
        """Sorts steps by their loss, newer ones first among equals, unreadable losses last."""

        def loss(step: int) -> float:
            try:
                return float(_read_json(self.folder / str(step) / "metrics")["loss"])
            except (OSError, ValueError, KeyError, TypeError):
                return math.inf

        return sorted(steps, key=lambda step: (loss(step), -step))

    def _steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdecimal())

    def _commit(self, path: Path, shapes: dict[str, Any]) -> None:
        """Finishes a save in the background: checks it, lists its files, removes older ones.

        Before a checkpoint counts it is opened. It must hold arrays of these shapes and no others.
        """
        try:
            self._checkpointer.wait_until_finished()
            if distributed.is_first():
                for item, like in shapes.items():
                    check_arrays(path / item, like)
                checksums.write(path)
        except Exception as error:
            self._give_up(path, error)
        if distributed.is_first():
            self._remove_old()

    def _give_up(self, path: Path, error: Exception) -> None:
        """Removes a save that failed, and raises an OSError."""
        for remains in (path, *path.parent.glob(f"{path.name}{_UNFINISHED}*")):
            shutil.rmtree(remains, ignore_errors=True)
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"checkpoint {path} could not be written (earlier ones are as they were): {reason}"
        ) from error

    def _remove_old(self) -> None:
        """Removes all checkpoints but the newest and the best."""
        steps = self._steps()
        best = self._best_first(steps)[: self._keep_best]
        for step in steps[: -self._keep]:
            if step not in best:
                # Renamed first: the next start then removes what a kill leaves of it.
                removed = self.folder / f"{step}{_UNFINISHED}-removed"
                shutil.rmtree((self.folder / str(step)).rename(removed))


def _handler() -> ocp.CompositeCheckpointHandler:
    """Returns a writer without orbax's files on how arrays lay on devices.

    They take a quarter of a save's time, and `read_arrays` needs none of them.
    """
    arrays = ocp.type_handlers.ArrayHandler(enable_write_sharding_file=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.CompositeCheckpointHandler(
        params=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        optimizer=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        description=ocp.JsonCheckpointHandler(),
        metrics=ocp.JsonCheckpointHandler(),
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted key, as JSON gives them back."""
    flat = {}
    for key, value in json.loads(json.dumps(values)).items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _read_json(item: Path) -> Any:
    return json.loads((item / "metadata").read_text())


def _unused(path: Path) -> Path:
    """Returns the path, or with a number appended if it exists."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free
