"""Reads and writes `status.json`, which says whether a run or a sweep is running or how it ended.

`experiments.cli.run_folder` describes the states.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentic_transformer.run_files import CHECKPOINTS, read_json, write_json
from experiments.cli import provenance
from experiments.cli.preemption import Stopped, acknowledge_signal
from experiments.cli.user_errors import describe, is_user_error

STATUS = "status.json"


def read_status(folder: Path) -> dict[str, Any]:
    """Returns the status of a run or sweep; an empty dict if it has none."""
    return read_json(folder / STATUS)


def write_running(folder: Path, **facts: Any) -> None:
    """Writes that a run or a sweep is running."""
    write_json(folder / STATUS, {"state": "running", "started": provenance.now()} | facts)


def write_ended(folder: Path, **facts: Any) -> None:
    """Writes how a run or a sweep ended, after which step, and on which devices."""
    provenance.add_provenance(folder, **provenance.devices())
    step = saved_step(folder)
    ended = {"ended": provenance.now()} | ({} if step is None else {"step": step})
    write_json(folder / STATUS, read_status(folder) | ended | facts)


@contextmanager
def track_status(folder: Path, command_name: str) -> Iterator[dict[str, Any]]:
    """Writes that a run is running, and in the end how it ended, however that was.

    Yields:
        a dict for more facts about a run that finishes.
    """
    write_running(folder, command=command_name)
    facts: dict[str, Any] = {}
    try:
        yield facts
    except BaseException as error:
        acknowledge_signal()
        ended = status_after(error)
        try:
            write_ended(folder, **ended)
        except OSError as unwritten:  # must not hide the error
            text = f"{folder / STATUS} cannot say that the run {ended['state']}: {unwritten}"
            print(text, file=sys.stderr, flush=True)
        if isinstance(error, Stopped):
            step = saved_step(folder)
            at = "before its first checkpoint" if step is None else f"at step {step}"
            print(f"{folder}: stopped by {error.signal} {at}", file=sys.stderr, flush=True)
        raise
    write_ended(folder, state="finished", **facts)


def status_after(error: BaseException) -> dict[str, Any]:
    """Returns the status of a run that an exception ended."""
    if isinstance(error, Stopped):
        return {"state": "stopped", "signal": error.signal}
    if isinstance(error, KeyboardInterrupt):  # raised by something other than our handlers
        return {"state": "stopped", "signal": "SIGINT"}
    if isinstance(error, SystemExit):
        if not error.code:
            return {"state": "finished"}
        if isinstance(error.code, int):
            return {"state": "failed", "error": f"exit code {error.code}", "exit_code": error.code}
        # Python prints a text, and exits by 1.
        return {"state": "failed", "error": str(error.code), "exit_code": 1}
    if is_user_error(error):
        return {"state": "failed", "error": str(error), "exit_code": 2}
    text = describe(error) or f"{type(error).__name__}: {error}"
    return {"state": "failed", "error": text, "exit_code": 1}


def saved_step(folder: Path) -> int | None:
    """Returns the step of a run's newest checkpoint, by its name alone; None if there is none."""
    steps = (path.name for path in (folder / CHECKPOINTS).glob("*"))
    return max((int(name) for name in steps if name.isdecimal()), default=None)
