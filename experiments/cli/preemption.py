"""Signals that stop work which can go on later.

SIGINT is Ctrl-C, SIGTERM says that a scheduler wants the machine back, SIGUSR2 is submitit's word
for it. Training saves first; an evaluation ends at once, and loses at most the condition under way.
SIGTERM and SIGUSR2 end with exit code 75. After SIGINT the process ends itself by that signal,
which a shell calls 130: a loop of the shell then ends too. A second SIGINT ends at once, without a
save.

Where joblib's workers run the jobs of a sweep, the process that waits for them passes the signal
on. No worker ends before they all have: joblib would kill the rest.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType, TracebackType
from typing import NoReturn

from agentic_transformer.training import distributed

_AGAIN = 0.1  # seconds between two looks at whether a signal was lost
_UNWINDING = 1.0  # seconds that cleaning up may take from `Stopped` to whoever catches it
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with resume=true goes on
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


def _heeded() -> list[signal.Signals]:
    """The signals that this process was not started to ignore, as a shell has its background jobs
    ignore SIGINT.
    """
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class _Ending:
    """What this process knows of the signal that ends it."""

    number: int | None = None
    raised = 0.0
    """When `Stopped` was raised last, by the monotonic clock."""
    caught = False
    """Whether somebody has caught `Stopped`, or remembers the signal otherwise."""


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
    """Makes the signals end the process; a launcher that handles them itself, as submitit does, is
    left to.
    """
    _watch()
    for number in _heeded():
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    _Ending.number = _Ending.number or number
    if _may_raise(frame):
        _Ending.raised = time.monotonic()
        raise Stopped(_Ending.number)


def _may_raise(frame: FrameType | None) -> bool:
    """Returns whether an exception would leave this frame and those around it.

    Python drops exceptions of finalisers, of weak references' callbacks and of those of the garbage
    collector, of which jax has one. An import that runs in compiled code may end the process.
    """
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame:
        code = frame.f_code
        of_python = (
            code.co_filename == weakref.__file__ or "importlib._bootstrap" in code.co_filename
        )
        if of_python or code in callbacks or code.co_name == "__del__":
            return False
        frame = frame.f_back
    return True


def catch() -> int | None:
    """Returns the signal that has come, if one has; the caller then sees to the end."""
    _Ending.caught = _Ending.number is not None
    return _Ending.number


@contextmanager
def stopping() -> Iterator[None]:
    """Raises `Stopped` in place of any error that comes after a signal: libraries make one of the
    other.
    """
    try:
        yield
    except Exception as error:
        if (number := catch()) is None:
            raise
        raise Stopped(number) from error


def leave(number: int) -> NoReturn:
    """Ends the process as `Stopped` would.

    Where it can, it spares Python the end of its modules: threads of XLA that still compute would
    meet freed memory. Processes of one run, and a sweep with jobs in other processes, take leave
    of each other.
    """
    catch()
    sys.stdout.flush()
    sys.stderr.flush()
    distributed_jax = getattr(sys.modules.get("jax"), "distributed", None)
    together = _Sweep.waits or (distributed_jax and distributed_jax.is_initialized())
    if number == signal.SIGINT:
        if together:
            sys.excepthook = lambda *_: None  # all is said
            raise KeyboardInterrupt from None  # by which Python ends itself with SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if together:
        raise Stopped(number)
    os._exit(EXIT_CODE)


@cache
def _watch() -> None:
    """Starts a thread that sees to it that signals end the process.

    It raises a signal again until somebody has caught `Stopped`, which may be lost on its way. On
    the second SIGINT it ends the process: Python's own handlers wait until compiled code returns,
    which a compilation may take minutes to do.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        interrupts, patience = 0, None
        while interrupts < 2:
            if select.select([reader], [], [], patience)[0]:
                interrupts += os.read(reader, 1)[0] == signal.SIGINT
                patience = _AGAIN
                continue
            lost = _Ending.number is not None and not _Ending.caught
            if lost and time.monotonic() - _Ending.raised > _UNWINDING:
                interrupts -= _Ending.number == signal.SIGINT  # that one is ours
                signal.pthread_kill(threading.main_thread().ident, _Ending.number)
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


class _Sweep:
    """Of this process, which runs jobs of a sweep one after another, or waits for those that do."""

    told: int | None = None
    at_work = False
    waits = False
    """Whether jobs run in other processes."""


def told() -> int | None:
    """The signal by which jobs were told to end, see `end_jobs`; None: they were not."""
    return _Sweep.told


def end_jobs() -> None:
    """Makes the signals end the job under way, here and in joblib's workers, and those that would
    follow it.
    """
    _watch()
    _Sweep.waits = True
    for number in _heeded():
        signal.signal(number, _end_job)


def _end_job(number: int, frame: FrameType | None) -> None:
    _Sweep.told = _Sweep.told or number
    for worker in _workers():
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGTERM)
    if _Sweep.at_work:
        _end(number, frame)


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
        catch()
        _Sweep.told = stopped.number
    finally:
        _Sweep.at_work = False


class Preemption:
    """A context in which the signals only set `requested`; when it is left they do what they did
    before, and the process ends.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    def agreed(self) -> bool:
        """Whether a signal has come to any process of the run, which then ends in all of them; they
        have to ask together.
        """
        if distributed.any_process(self.requested) and not self.requested:
            self._received = signal.SIGTERM
        return self.requested

    def __enter__(self) -> Preemption:
        self._before = {number: signal.signal(number, self._note) for number in _heeded()}
        self._received = catch()  # one that came before, and was lost
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is None and number == signal.SIGINT:
            # Not print: it fails where the signal came during another print.
            os.write(2, b"\nCtrl-C: saves and ends; once more: ends at once, without a save\n")
        self._received = self._received or number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and error is None:
            if self._received != signal.SIGINT:  # a launcher may have an answer of its own
                os.kill(os.getpid(), self._received)
            raise Stopped(self._received)
