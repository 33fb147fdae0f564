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
_UNWIND_SECONDS = 1.0  # time for clean-up after `Stopped` is raised; then the signal is sent again


class _State:
    """Holds process-wide variables; not instantiated."""

    number: int | None = None  # of the signal that has come
    raised_at = 0.0  # monotonic time when `Stopped` was last raised
    acknowledged = False  # whether the work is being ended, so that `_watch` need not send again
    in_pool = False  # whether this process launches joblib's workers, or is one
    job_running = True  # whether a signal has work to interrupt here


class Stopped(SystemExit):
    """Ends the work after a signal.

    Only `sweep_job` and `app.run` may catch it for good.
    """

    def __init__(self, number: int) -> None:
        """Takes the number of the signal."""
        super().__init__(128 + number if number == signal.SIGINT else EXIT_CODE)
        self.number = number
        self.signal = signal.Signals(number).name


def _signals_not_ignored() -> list[signal.Signals]:
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
        _State.in_pool, _State.job_running = True, False
    for number in _signals_not_ignored():
        default = signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
        if default or in_pool:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """Handles a signal: terminates workers and raises `Stopped`, unless nothing runs here."""
    _State.number = _State.number or number
    if _State.in_pool:
        for worker in multiprocessing.active_children():
            worker.terminate()
    if not _State.job_running:
        _State.acknowledged = True
    # Do not raise during an import: if compiled code started it, the exception may end the process.
    # `_watch` sends the signal again.
    if not _State.acknowledged and not _imports(frame):
        _State.raised_at = time.monotonic()
        raise Stopped(_State.number)


def _imports(frame: FrameType | None) -> bool:
    """Returns whether an import is under way."""
    while frame and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def acknowledge_signal() -> int | None:
    """Returns the signal received, if any, and stops the watcher from sending it again.

    The caller must end the work.
    """
    _State.acknowledged = _State.number is not None
    return _State.number


@contextmanager
def as_stopped() -> Iterator[None]:
    """Raises `Stopped` instead of an error that came after a signal.

    Libraries may catch `Stopped` and raise an error of their own.
    """
    try:
        yield
    except Exception as error:
        if (number := acknowledge_signal()) is None:
            raise
        raise Stopped(number) from error


@contextmanager
def sweep_job() -> Iterator[None]:
    """Runs a job in a process that has more of them: a signal ends the job, not the process.

    joblib would kill the other workers if one of them ended.
    """
    _State.job_running = True
    try:
        with suppress(Stopped):
            yield
    finally:
        _State.job_running = False
        acknowledge_signal()


def leave(number: int) -> NoReturn:
    """Ends the process: by SIGINT after SIGINT, else with EXIT_CODE.

    Skips Python's shutdown, during which running XLA threads would read freed memory. Processes of
    one run and processes with joblib workers shut down normally.
    """
    acknowledge_signal()
    sys.stdout.flush()
    sys.stderr.flush()
    jax_processes = getattr(sys.modules.get("jax"), "distributed", None)
    normally = _State.in_pool or (jax_processes and jax_processes.is_initialized())
    if number == signal.SIGINT:
        if normally:
            sys.excepthook = lambda *_: None  # no traceback: the end is already reported
            raise KeyboardInterrupt from None  # by which Python ends itself with SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if normally:
        raise Stopped(number)
    os._exit(EXIT_CODE)


@cache
def _watch() -> None:
    """Starts a thread (once) that sends a signal again until it is acknowledged.

    Finalisers and callbacks swallow exceptions, also `Stopped`. On the second SIGINT the thread
    ends the process: Python's own handlers wait until compiled code returns, which may take
    minutes.
    """
    _silence_swallowed_stopped()
    reader = _open_wakeup_pipe()

    def watch() -> None:
        interrupts, timeout = 0, None
        while interrupts < 2:
            if select.select([reader], [], [], timeout)[0]:
                interrupts += os.read(reader, 1)[0] == signal.SIGINT
                timeout = _POLL_SECONDS
            elif (
                _State.number is not None
                and not _State.acknowledged
                and time.monotonic() - _State.raised_at > _UNWIND_SECONDS
            ):
                # Our own resend must not count as the user's second Ctrl-C.
                interrupts -= _State.number == signal.SIGINT
                signal.pthread_kill(threading.main_thread().ident, _State.number)
        os._exit(128 + signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def _silence_swallowed_stopped() -> None:
    """Keeps Python from reporting a `Stopped` that a finaliser or a callback swallowed."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda dropped: (
        None if isinstance(dropped.exc_value, Stopped) else hook(dropped)
    )


def _open_wakeup_pipe() -> int:
    """Returns the end of a pipe at which Python writes the number of each signal at once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    return reader


class Preemption:
    """Lets training finish its step and save.

    From the first `check_requested()` on, a signal is only recorded; on leaving the `with` block
    without an error, `Stopped` is raised.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def check_requested(self) -> bool:
        """Returns whether a signal has come; the first call installs the recording handlers."""
        if not self._before:
            signals = _signals_not_ignored()
            self._before = {number: signal.signal(number, self._record) for number in signals}
            self._received = acknowledge_signal()  # one that came before, and was lost
        return self._received is not None

    def requested_in_any_process(self) -> bool:
        """Returns whether a signal has come to any process of the run; all of them ask together."""
        requested = distributed.any_process(self.check_requested())
        if requested and self._received is None:
            # The other process's signal is not known; it is treated as SIGTERM.
            self._received = signal.SIGTERM
        return requested

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self._received is None and number == signal.SIGINT:
            # Not print: it fails where the signal came during another print. Ctrl-C may have ended
            # the reader too, such as `tee`.
            with suppress(OSError):
                os.write(2, b"\nCtrl-C: saves and ends; once more: ends at once, without a save\n")
        self._received = self._received or number

    def __enter__(self) -> Preemption:
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._received is not None and error is None:
            _State.number, _State.raised_at = self._received, time.monotonic()
            if self._received != signal.SIGINT:  # a launcher may have an answer of its own
                os.kill(os.getpid(), self._received)
            raise Stopped(self._received)
