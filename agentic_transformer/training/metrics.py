"""Logs training metrics: a CSV for figures, TensorBoard events to watch."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

_MAX_QUEUE = 10_000  # events that may wait to be written


class MetricsLog:
    """Writes `<run>/metrics.csv` and `<run>/tensorboard/`, one row per call, in order of steps."""

    def __init__(self, run: Path, from_step: int = 0) -> None:
        """Opens the log.

        Args:
            run: the run's folder.
            from_step: step from which a resumed run goes on. Later rows are dropped: their steps
                will be trained again.
        """
        path = run / "metrics.csv"
        kept = _rows_until(path, from_step)
        partial = path.with_suffix(".part")
        self._file = partial.open("w", newline="", buffering=1)
        self._writer: csv.DictWriter | None = None
        for row in kept:
            self._append(row)
        partial.replace(path)  # Only now: a kill before this line leaves the old file as it was.
        self._events: SummaryWriter | None = None
        with self._tensorboard_may_fail():
            # An absolute path: in `s3:1/run` TensorBoard would take `s3` for a kind of storage.
            folder = str((run / "tensorboard").resolve())
            # A long queue: once TensorBoard's thread has died of a full disk, nothing empties the
            # queue, and a full one would block training.
            self._events = SummaryWriter(folder, purge_step=from_step + 1, max_queue=_MAX_QUEUE)
        self._earlier_seconds = float(kept[-1]["seconds"]) if kept else 0.0
        self._start = time.perf_counter()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one row: the step, the metrics, and the `seconds` of training so far."""
        seconds = self._earlier_seconds + time.perf_counter() - self._start
        self._append({"step": step, **metrics, "seconds": round(seconds, 3)})
        with self._tensorboard_may_fail():
            if self._events:
                for name, value in metrics.items():
                    self._events.add_scalar(name, value, step)
                self._events.flush()

    @contextmanager
    def _tensorboard_may_fail(self) -> Iterator[None]:
        """Disables TensorBoard after its first error and prints one line."""
        try:
            yield
        except Exception as error:
            self._events = None
            print(
                f"warning: no TensorBoard events from here on: {error}", file=sys.stderr, flush=True
            )

    def _append(self, row: dict[str, object]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, fieldnames=list(row))
            self._writer.writeheader()
        self._writer.writerow(row)

    def __enter__(self) -> MetricsLog:
        """Returns the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self._file.close()
        with self._tensorboard_may_fail():
            if self._events:
                self._events.close()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    """Reads the rows up to a step."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # A row that a kill cut short lacks values. Its step lies beyond the last checkpoint, so it
        # will be trained again.
        return [
            row
            for row in csv.DictReader(file)
            if None not in row.values() and int(row["step"]) <= step
        ]
