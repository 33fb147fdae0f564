"""SIGTERM (a scheduler wants the machine back) and SIGUSR2 (submitit's word for it): save, and end with a code that says "again".

Training saves first; an evaluation ends at once, and loses at most the condition under way. Where joblib's workers run the jobs
of a sweep, the process that waits for them passes the signal on. No worker ends before they all have: joblib would kill the rest.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import NoReturn

from agentic_transformer import distributed

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with resume=true goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


def end_at_once() -> None:
    """Makes the signals end the process; a launcher that handles them itself, as submitit does, is left to."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_CODE)


class _Sweep:
    """Of this process, which runs jobs of a sweep one after another, or waits for those that do."""

    told = False
    at_work = False


def told() -> bool:
    """Whether jobs were told to end, see `end_jobs`."""
    return _Sweep.told


def end_jobs() -> None:
    """Makes the signals end the job under way, here and in joblib's workers, and those that would follow it."""
    for number in SIGNALS:
        signal.signal(number, _end_job)


def _end_job(number: int, frame: FrameType | None) -> None:
    _Sweep.told = True
    for worker in _workers():
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
    if _Sweep.at_work:
        sys.exit(EXIT_CODE)


def _workers() -> list[int]:
    """Processes that joblib has started from here."""
    from joblib.externals.loky import reusable_executor

    return list(getattr(reusable_executor._executor, "_processes", None) or ())


def run_job(job: Callable[[], None]) -> None:
    """Runs a job of a sweep, unless told to end; the process lives on where a signal ends it."""
    if _Sweep.told:
        return
    _Sweep.at_work = True
    try:
        job()
    except SystemExit as ended:
        if ended.code != EXIT_CODE:
            raise
        _Sweep.told = True
    finally:
        _Sweep.at_work = False


class Preemption:
    """A context in which the signals only set `requested`; when it is left they do what they did before, and the process ends."""

    def __init__(self) -> None:
        self._received: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def agreed(self) -> bool:
        """Whether a signal has come to any process of the run, which then ends in all of them; they have to ask together."""
        if distributed.any_process(self.requested) and not self.requested:
            self._received = signal.SIGTERM
        return self.requested

    def __enter__(self) -> Preemption:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and error is None:
            os.kill(os.getpid(), self._received)
            sys.exit(EXIT_CODE)
