"""glibc's allocator, told what to do with freed memory; elsewhere, or where MALLOC_ variables are
set, nothing is told.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_... of malloc.h
_MOST = 2**30


def keep_freed() -> None:
    """Keeps freed memory for what comes next; to be called before much is allocated.

    As it comes, glibc hands large arrays back to the system, and XLA's CPU backend, which asks for
    them anew at every step, gets them as pages that are cleared one by one: a quarter of the CPU
    time of the quickstart's training step.
    """
    if not any(name.startswith("MALLOC_") for name in os.environ):
        _tell((_MMAP_THRESHOLD, _MOST), (_TRIM_THRESHOLD, _MOST))


def return_freed() -> None:
    """Gives freed memory back at once, from one arena: what then stays resident is in use, or never
    freed.

    To be called before there are threads. As it comes, glibc spreads allocations over an arena a
    thread and keeps what was freed: resident memory wanders by 20 MB.
    """
    _tell((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 1 << 16), (_TRIM_THRESHOLD, 1 << 17))


def trim() -> None:
    """Gives back what is free at the end of the heap."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _tell(*settings: tuple[int, int]) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in settings:
            mallopt(parameter, value)
