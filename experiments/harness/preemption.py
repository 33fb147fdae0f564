"""Signals that stop work which can go on later.

SIGINT is Ctrl-C, SIGTERM says that a scheduler wants the machine back, SIGUSR2 is submitit's word for it. Training saves first;
an evaluation ends at once, and loses at most the condition under way. SIGTERM and SIGUSR2 end with exit code 75. After SIGINT the
process ends itself by that signal, which a shell calls 130: a loop of the shell then ends too. A second SIGINT ends at once,
without a save.

Where joblib's workers run the jobs of a sweep, the process that waits for them passes the signal on. No worker ends before they
all have: joblib would kill the rest.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType, TracebackType
from typing import NoReturn

from agentic_transformer import distributed

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with resume=true goes on
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def _heeded() -> list[signal.Signals]:
    """The signals that this process was not started to ignore, as a shell has its background jobs ignore SIGINT."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class Stopped(SystemExit):
    """A signal has stopped the work; whoever catches this raises it again."""

    def __init__(self, number: int) -> None:
        """Takes the number of the signal."""
        super().__init__(128 + number if number == signal.SIGINT else EXIT_CODE)
        self.number = number

    @property
    def signal(self) -> str:
        """The signal's name."""
        return signal.Signals(self.number).name


def end_at_once() -> None:
    """Makes the signals end the process; a launcher that handles them itself, as submitit does, is left to."""
    _watch_for_a_second_interrupt()
    for number in _heeded():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


@cache
def _watch_for_a_second_interrupt() -> None:
    """Starts a thread that ends the process on the second SIGINT.

    Python's own handlers wait until compiled code returns, which a compilation may take minutes to do.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        interrupts = 0
        while interrupts < 2:
            interrupts += os.read(reader, 1)[0] == signal.SIGINT
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


class _Sweep:
    """Of this process, which runs jobs of a sweep one after another, or waits for those that do."""

    told: int | None = None
    at_work = False


def told() -> int | None:
    """The signal by which jobs were told to end, see `end_jobs`; None: they were not."""
    return _Sweep.told


def end_jobs() -> None:
    """Makes the signals end the job under way, here and in joblib's workers, and those that would follow it."""
    _watch_for_a_second_interrupt()
    for number in _heeded():
        signal.signal(number, _end_job)


def _end_job(number: int, frame: FrameType | None) -> None:
    _Sweep.told = _Sweep.told or number
    for worker in _workers():
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
    if _Sweep.at_work:
        raise Stopped(number)


def _workers() -> list[int]:
    """Processes that joblib has started from here."""
    from joblib.externals.loky import reusable_executor

    return list(getattr(reusable_executor._executor, "_processes", None) or ())


def run_job(job: Callable[[], None]) -> None:
    """Runs a job of a sweep, unless told to end; the process lives on where a signal ends it."""
    if _Sweep.told is not None:
        return
    _Sweep.at_work = True
    try:
        job()
    except Stopped as stopped:
        _Sweep.told = stopped.number
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
        self._before = {number: signal.signal(number, self._note) for number in _heeded()}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is None and number == signal.SIGINT:
            # Not print: it fails where the signal came during another print.
            os.write(2, b"\nCtrl-C: saves and ends; once more: ends at once, without a save\n")
        self._received = self._received or number

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and error is None:
            if self._received != signal.SIGINT:  # a launcher may have an answer of its own
                os.kill(os.getpid(), self._received)
            raise Stopped(self._received)
