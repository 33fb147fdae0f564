"""Logs training: tables for figures, and events to watch in TensorBoard or at Weights & Biases."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from agentic_transformer.run_files import LEARNING_CURVE, METRICS
from agentic_transformer.training.csv_log import CsvLog


class Events(Protocol):
    """Describes a log of single numbers, such as TensorBoard's."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds one number."""

    def flush(self) -> None:
        """Writes what waits to be written."""

    def close(self) -> None:
        """Ends the log."""


class WandbEvents:
    """Sends numbers to Weights & Biases, or with WANDB_MODE=offline to `<run>/wandb` alone."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        """Starts a run there, or goes on with the one that this folder has.

        Args:
            run: the run's folder; its name is the run's there.
            settings: settings of the run.
        """
        import wandb  # an extra

        noted = run / "wandb_id.txt"
        if not noted.exists():
            noted.write_text(secrets.token_hex(4))
        self._run = wandb.init(
            dir=str(run),
            name=run.name,
            id=noted.read_text(),
            resume="allow",
            config=settings,
        )

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds one number."""
        self._run.log({name: value}, step=step)

    def flush(self) -> None:
        """Does nothing: a thread of wandb's writes."""

    def close(self) -> None:
        """Ends the log."""
        self._run.finish()


class TensorBoardEvents:
    """Writes numbers to a file of TensorBoard, which drops those of later steps in earlier files.

    tensorboardX's own SummaryWriter writes in a thread. On a full disk that thread, and a call at
    the end of the process, would print a traceback each.
    """

    def __init__(self, run: Path, from_step: int = 0) -> None:
        """Makes the file.

        Args:
            run: the run's folder.
            from_step: step from which a resumed run goes on.

        Raises:
            OSError: it cannot be made.
        """
        # An absolute path: in `s3:1/run` tensorboardX would take `s3` for a kind of storage.
        folder = (run / "tensorboard").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(from_step + 1, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds one number."""
        self._write(step, summary=scalar(name, value))

    def flush(self) -> None:
        """Writes what waits to be written."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the log."""
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))


class MetricsLog:
    """Writes `metrics.csv`, `learning_curve.csv` and events, in order of steps."""

    def __init__(
        self,
        run: Path,
        from_step: int = 0,
        tokens_per_step: int = 0,
        wandb_settings: dict[str, Any] | None = None,
    ) -> None:
        """Opens the log.

        Args:
            run: the run's folder.
            from_step: step from which a resumed run goes on. What was logged of later steps is
                dropped.
            tokens_per_step: tokens of a training step; 0: none are counted.
            wandb_settings: settings of the run, if it is to be logged at Weights & Biases too.
        """
        self._metrics = CsvLog(run / METRICS, from_step)
        self._returns = CsvLog(run / LEARNING_CURVE, from_step)
        self._evaluated = {int(row["step"]) for row in self._returns.kept}
        # Opened with the first number, so that a run that fails earlier leaves nothing behind.
        self._unopened: dict[str, Callable[[], Events]] = {
            "TensorBoard": lambda: TensorBoardEvents(run, from_step)
        }
        if wandb_settings is not None:
            self._unopened["wandb"] = lambda: WandbEvents(run, wandb_settings)
        self._events: dict[str, Events] = {}
        kept = self._metrics.kept
        self._earlier_seconds = float(kept[-1]["seconds"]) if kept else 0.0
        self._tokens_per_step = tokens_per_step
        self._start = self._last_time = time.perf_counter()
        self._last_step = from_step

    def write(self, step: int, metrics: dict[str, float | None]) -> dict[str, float | None]:
        """Adds one row: the metrics, rates, and the `seconds` that the run has taken so far.

        A metric that is None has an empty cell, and no event.

        Returns:
            The metrics with `steps_per_second` and, if tokens are counted, `tokens_per_second`
            since the last row. Evaluations are left out of the rates, not of `seconds`.
        """
        now = time.perf_counter()
        rate = (step - self._last_step) / max(now - self._last_time, 1e-9)
        rates = {"steps_per_second": rate}
        if self._tokens_per_step:
            rates["tokens_per_second"] = rate * self._tokens_per_step
        metrics = metrics | {name: round(value, 3) for name, value in rates.items()}
        seconds = round(self._earlier_seconds + now - self._start, 3)
        self._metrics.append({"step": step, **metrics, "seconds": seconds})
        self._send(step, metrics)
        self._last_step, self._last_time = step, now
        return metrics

    def write_returns(self, step: int, returns: Sequence[dict[str, float]]) -> None:
        """Adds the rows of an evaluation that followed the last row of metrics.

        Args:
            step: the step that the agent was evaluated after.
            returns: a row for each number of `trajectories`, with the `return` and its interval.
        """
        if returns:
            self._returns.append(*({"step": step, **row} for row in returns))
            self._evaluated.add(step)
        self._send(
            step, {f"return/trajectory_{row['trajectories']}": row["return"] for row in returns}
        )
        self._last_time = time.perf_counter()

    def has_returns(self, step: int) -> bool:
        """Returns whether the agent's evaluation after a step is logged."""
        return step in self._evaluated

    def _send(self, step: int, numbers: dict[str, float | None]) -> None:
        """Sends numbers to all that may be watched."""

        def send(events: Events) -> Events:
            for name, value in numbers.items():
                if value is not None:
                    events.add_scalar(name, value, step)
            events.flush()
            return events

        while self._unopened:
            self._try(*self._unopened.popitem())
        for name, events in list(self._events.items()):
            self._try(name, lambda events=events: send(events))

    def _try(self, name: str, act: Callable[[], Events]) -> None:
        """Keeps the events that `act` returns, or ends them at an error, with one line."""
        try:
            self._events[name] = act()
        except Exception as error:
            self._events.pop(name, None)
            what = "TensorBoard events" if name == "TensorBoard" else f"{name} log"
            print(f"warning: no {what} from here on: {error}", file=sys.stderr, flush=True)

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
        self._metrics.close()
        self._returns.close()
        for name, events in list(self._events.items()):
            self._try(name, lambda events=events: events.close() or events)
