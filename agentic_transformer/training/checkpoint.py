"""Saves the checkpoints of a run.

A checkpoint holds the train state of a step, a JSON spec of the agent, and the loss. Orbax writes
the arrays from all processes. Process 0 then checks that the arrays can be opened, writes
SHA256SUMS as the checkpoint's last file, and removes old checkpoints. The files are described in
`agentic_transformer.training.checkpoint_reader`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp

from agentic_transformer.training import checksums, distributed
from agentic_transformer.training.checkpoint_arrays import check_arrays
from agentic_transformer.training.checkpoint_reader import CheckpointReader
from agentic_transformer.training.literal_path import LiteralPath
from agentic_transformer.training.state import TrainState

_UNFINISHED = ".orbax-checkpoint-tmp"
"""Part of a folder's name while it is written (orbax's) or removed (ours)."""

_SMALLEST_SLICE = 2**20
"""Bytes. Devices that hold the same array write a slice of it each, if slices are as large as this.

Smaller arrays are written by one device. Each new shape of a slice is a program to compile, which
takes longer than to write the array.
"""


@cache  # once for all jobs of a sweep
def silence_failed_saves() -> None:
    """Hides what threads of orbax print of a save that fails: our own error says it all."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook
    # Other writes, which were under way when one failed, print this.
    sys.unraisablehook = lambda dropped: (
        None if str(dropped.exc_value) == "Event loop is closed" else hook(dropped)
    )


class Checkpoints(CheckpointReader):
    """Saves the checkpoints of one run, keeps the newest and the best, and reads them.

    Orbax's AsyncCheckpointer writes in the background. Orbax's CheckpointManager (0.11) is not
    used, because it:
    (1) writes to a step after its last callback, so checksums could not cover all files;
    (2) cannot start next to a step with damaged metrics;
    (3) overwrites unknown step folders.
    """

    def __init__(self, run: Path, keep: int = 2, keep_best: int = 0) -> None:
        """Prepares to read and write; nothing is written yet.

        Args:
            run: the run's folder.
            keep: how many of the newest checkpoints stay.
            keep_best: how many of the checkpoints with the smallest losses also stay; they may be
                among the newest.
        """
        super().__init__(run)
        self._keep, self._keep_best = keep, keep_best
        self._checkpointer = ocp.AsyncCheckpointer(_handler())
        self._background = ThreadPoolExecutor(max_workers=1)
        self._pending: Future | None = None

    def prepare(self) -> int | None:
        """Makes the folder ready for training and returns the newest whole step, if there is one.

        Every process must call this. Removes what killed saves left behind. Renames a newer step
        that is not whole to `damaged-<step>`, and prints what is wrong with it.
        """
        if distributed.is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for remains in self.folder.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(remains)
        return self._find_newest(lambda step: _unused(self.folder / f"damaged-{step}"))

    def save(self, state: TrainState, spec: dict[str, Any], loss: float) -> None:
        """Starts to write a checkpoint of the state's step; the state may be donated at once.

        Args:
            state: train state, sharded over all processes.
            spec: JSON values that describe the agent.
            loss: the best checkpoint is the one with the smallest.

        Raises:
            OSError: the previous checkpoint could not be written or read back, or this one could
                not be started.
            ValueError: there is a checkpoint of that step.
        """
        self.wait()
        path = self.path(int(state.step))
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

        Every process must call this. If one ended while process 0 still reads the last checkpoint
        for its checksums, process 0 would soon end too (`distributed.SHUTDOWN_TIMEOUT`).

        Raises:
            OSError: see `wait`.
            ValueError: process 0 could not write it; raised in the other processes.
        """
        with distributed.first_process_first():
            self.wait()
        self._background.shutdown()
        self._checkpointer.close()

    def _commit(self, path: Path, shapes: dict[str, Any]) -> None:
        """Finishes a save in the background.

        Waits, checks that the arrays have these shapes, writes checksums, removes older
        checkpoints.
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

    def _give_up(self, path: Path, error: Exception) -> NoReturn:
        """Removes a save that failed, and raises an OSError, with the errno of a full disk."""
        for remains in (path, *path.parent.glob(f"{path.name}{_UNFINISHED}*")):
            shutil.rmtree(remains, ignore_errors=True)
        number = _no_room(error)
        reason = os.strerror(number) if number else " ".join(str(error).split())[:300]
        failed = OSError(
            f"checkpoint {path} could not be written (earlier ones are as they were): {reason}"
        )
        failed.errno = number
        raise failed from error

    def _remove_old(self) -> None:
        """Removes all checkpoints but the newest and the best."""
        steps = self._steps()
        best = self._best_first(steps)[: self._keep_best]
        for step in steps[: -self._keep]:
            if step not in best:
                # Renamed first: the next start then removes what a kill leaves of it.
                removed = self.folder / f"{step}{_UNFINISHED}-removed"
                shutil.rmtree(self.path(step).rename(removed))


def _no_room(error: BaseException | None) -> int | None:
    """Returns the errno of a full disk that caused an error; None if none did.

    Tensorstore, which writes arrays, tells it in the text of a ValueError.
    """
    while error:
        told = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(told[1]) if told else getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return number
        error = error.__cause__ or error.__context__
    return None


def _handler() -> ocp.CompositeCheckpointHandler:
    """Returns a writer of the items of a checkpoint.

    It leaves out orbax's files on how arrays lay on devices: they take a quarter of a save's time,
    and `read_arrays` needs none of them.
    """
    arrays = ocp.type_handlers.ArrayHandler(
        enable_write_sharding_file=False,
        min_slice_bytes_for_replica_parallel=_SMALLEST_SLICE,
    )
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.CompositeCheckpointHandler(
        params=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        optimizer=ocp.PyTreeCheckpointHandler(type_handler_registry=registry),
        description=ocp.JsonCheckpointHandler(),
        metrics=ocp.JsonCheckpointHandler(),
    )


def _unused(path: Path) -> Path:
    """Returns the path, with a number appended if it exists."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free
