"""Training metrics: a CSV for figures, TensorBoard events for watching."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

_QUEUE = 10_000  # events that may wait to be written


class MetricsLog:
    """Writes `<run>/metrics.csv` and `<run>/tensorboard/`; one row per call, in order of steps."""

    def __init__(self, run: Path, from_step: int = 0) -> None:
        """Opens the log.

        Args:
            run: the run's folder.
            from_step: a resumed run goes on from here; rows of later steps, which will be trained
                again, are dropped.
        """
        path = run / "metrics.csv"
        kept = _rows_until(path, from_step)
        partial = path.with_suffix(".part")
        self._file = partial.open("w", newline="", buffering=1)
        self._writer: csv.DictWriter | None = None
        for row in kept:
            self._append(row)
        partial.replace(path)  # only now: a kill before this leaves the rows that there were
        self._events: SummaryWriter | None = None
        with self._watching():
            # Its thread ends when it cannot write; a queue of this length then fills no more.
            # Absolute, for of `s3:1/run` it takes what stands before the colon for a kind of
            # storage.
            folder = str((run / "tensorboard").resolve())
            self._events = SummaryWriter(folder, purge_step=from_step + 1, max_queue=_QUEUE)
        self._before = float(kept[-1]["seconds"]) if kept else 0.0
        self._start = time.perf_counter()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one row: the step, the metrics, and `seconds` of training so far."""
        self._append(
            {
                "step": step,
                **metrics,
                "seconds": round(self._before + time.perf_counter() - self._start, 3),
            }
        )
        with self._watching():
            if self._events:
                for name, value in metrics.items():
                    self._events.add_scalar(name, value, step)
                self._events.flush()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Gives TensorBoard up where it fails, and says so in one line: training goes on without
        it.
        """
        try:
            yield
        except Exception as error:
            self._events = None
            print(f"no TensorBoard events from here on: {error}", file=sys.stderr, flush=True)

    def _append(self, row: dict[str, object]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, fieldnames=list(row))
            self._writer.writeheader()
        self._writer.writerow(row)

    def __enter__(self) -> MetricsLog:
        """Usable in a with statement."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the files."""
        self._file.close()
        with self._watching():
            if self._events:
                self._events.close()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # A row that a kill cut short lacks values; its step is beyond the last checkpoint, so it is
        # trained again.
        return [
            row
            for row in csv.DictReader(file)
            if None not in row.values() and int(row["step"]) <= step
        ]
