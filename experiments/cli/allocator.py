"""Changes the settings of glibc's allocator, and measures resident memory.

Other systems, and processes with variables MALLOC_..., keep theirs.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # M_... of malloc.h


def keep_freed() -> None:
    """Keeps freed memory for the next arrays; call it before much is allocated.

    By default glibc returns large arrays to the system, and XLA's CPU backend gets them anew at
    every step, as pages that are cleared one by one: a quarter of the quickstart's training time.
    """
    if not any(name.startswith("MALLOC_") for name in os.environ):
        _set((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**30))


def return_freed() -> None:
    """Returns freed memory at once, from one arena, so that resident memory is memory in use.

    Call it before there are threads. By default resident memory wanders by 20 MB.
    """
    _set((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 1 << 16), (_TRIM_THRESHOLD, 1 << 17))


def trim() -> None:
    """Returns free memory at the end of the heap to the system."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)


def resident_bytes() -> int:
    """Returns the bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _set(*settings: tuple[int, int]) -> None:
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in settings:
            mallopt(parameter, value)
