"""Handles signals that stop work which can go on later.

SIGINT is Ctrl-C, SIGTERM says that a scheduler wants the machine back, SIGUSR2 is submitit's word
for it. Training saves first; everything else ends at once. The exit code is then 75; after SIGINT
the process ends itself by that signal, so that a loop of the shell ends too. A second SIGINT ends
the process at once, without a save.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import NoReturn

from agentic_transformer.training import distributed

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command with resume=true goes on
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_POLL_SECONDS = 0.1
_UNWIND_SECONDS = 1.0  # time for clean-up between raising `Stopped` and catching it


class _State:
    """Holds what this process knows of the signal that ends it."""

    number: int | None = None
    raised = 0.0  # monotonic time when `Stopped` was last raised
    caught = False  # whether the signal is seen to, so that it need not be raised again
    launches = False  # whether this process launches jobs of a sweep in other processes, or is one
    in_job = True  # whether a signal has work to interrupt here


class Stopped(SystemExit):
    """Says that a signal has stopped the work; whoever catches it raises it again."""

    def __init__(self, number: int) -> None:
        """Takes the number of the signal."""
        super().__init__(128 + number if number == signal.SIGINT else EXIT_CODE)
        self.number = number
        self.signal = signal.Signals(number).name


def _heeded() -> list[signal.Signals]:
    """Returns the signals that this process was not started to ignore.

    A shell has its background jobs ignore SIGINT.
    """
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def handle_signals(in_pool: bool = False) -> None:
    """Makes the signals raise `Stopped`; handlers of a launcher, such as submitit's, stay.

    Args:
        in_pool: whether this process launches jobs of a sweep in processes of joblib, or is one of
            these. The signals then end the jobs under way, here and in processes started from here.
    """
    _watch()
    if in_pool:
        _State.launches, _State.in_job = True, False
    for number in _heeded():
        default = signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
        if default or in_pool:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    _State.number = _State.number or number
    if _State.launches:
        for worker in multiprocessing.active_children():
            worker.terminate()
    if not _State.in_job:
        _State.caught = True
    # An exception in an import that compiled code runs may end the process: `_watch` tries again.
    if not _State.caught and not _imports(frame):
        _State.raised = time.monotonic()
        raise Stopped(_State.number)


def _imports(frame: FrameType | None) -> bool:
    """Returns whether an import is under way."""
    while frame and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def received() -> int | None:
    """Returns the signal that has come, if any; the caller then sees to the end."""
    _State.caught = _State.number is not None
    return _State.number


@contextmanager
def as_stopped() -> Iterator[None]:
    """Raises `Stopped` in place of an error after a signal: libraries turn one into the other."""
    try:
        yield
    except Exception as error:
        if (number := received()) is None:
            raise
        raise Stopped(number) from error


@contextmanager
def sweep_job() -> Iterator[None]:
    """Runs a job in a process that has more of them: a signal ends the job, not the process.

    joblib would kill the other workers if one of them ended.
    """
    _State.in_job = True
    try:
        with suppress(Stopped):
            yield
    finally:
        _State.in_job = False
        received()


def leave(number: int) -> NoReturn:
    """Ends the process as `Stopped` would.

    Where it can, it skips the end of Python's modules: threads of XLA that still compute would
    meet freed memory. Processes of one run, and the launcher of a sweep, have to end in order.
    """
    received()
    sys.stdout.flush()
    sys.stderr.flush()
    jax_processes = getattr(sys.modules.get("jax"), "distributed", None)
    in_order = _State.launches or (jax_processes and jax_processes.is_initialized())
    if number == signal.SIGINT:
        if in_order:
            sys.excepthook = lambda *_: None  # all is said
            raise KeyboardInterrupt from None  # by which Python ends itself with SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if in_order:
        raise Stopped(number)
    os._exit(EXIT_CODE)


@cache
def _watch() -> None:
    """Starts a thread that sees to it that signals end the process.

    It sends a signal again until `Stopped` is caught, since finalisers and callbacks swallow
    exceptions. On the second SIGINT it ends the process: Python's own handlers wait until compiled
    code returns, which may take minutes.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda dropped: (
        None if isinstance(dropped.exc_value, Stopped) else hook(dropped)
    )
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def watch() -> None:
        interrupts, patience = 0, None
        while interrupts < 2:
            if select.select([reader], [], [], patience)[0]:
                interrupts += os.read(reader, 1)[0] == signal.SIGINT
                patience = _POLL_SECONDS
                continue
            lost = _State.number is not None and not _State.caught
            if lost and time.monotonic() - _State.raised > _UNWIND_SECONDS:
                interrupts -= _State.number == signal.SIGINT  # the one that is sent here
                signal.pthread_kill(threading.main_thread().ident, _State.number)
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


class Preemption:
    """Lets work end by itself: from the first question on, the signals only set `requested`.

    A context; when it is left after a signal, the process ends.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Returns whether a signal has come."""
        if not self._before:
            self._before = {number: signal.signal(number, self._note) for number in _heeded()}
            self._received = received()  # one that came before, and was lost
        return self._received is not None

    def agreed(self) -> bool:
        """Returns whether a signal has come to any process of the run; all of them ask together."""
        if distributed.any_process(self.requested) and not self.requested:
            self._received = signal.SIGTERM
        return self.requested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is None and number == signal.SIGINT:
            # Not print: it fails where the signal came during another print.
            os.write(2, b"\nCtrl-C: saves and ends; once more: ends at once, without a save\n")
        self._received = self._received or number

    def __enter__(self) -> Preemption:
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and error is None:
            _State.number, _State.raised = self._received, time.monotonic()
            if self._received != signal.SIGINT:  # a launcher may have an answer of its own
                os.kill(os.getpid(), self._received)
            raise Stopped(self._received)
