"""Compiles the programs of suite `gpu` side by side, before its parts are measured one by one.

A part's process finds them in JAX's cache of compiled programs: 180 programs take 26 seconds on 16
cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import jax

from experiments.benchmarks import gpu_attention, gpu_exactness, gpu_ring, gpu_training
from experiments.benchmarks.gpu_timing import keep_programs


def compile_programs(folder: str) -> None:
    """Compiles what the slow parts run; one that fails is left to its part, which says why.

    Args:
        folder: of JAX's cache of compiled programs.
    """
    keep_programs(folder)
    parts = (gpu_exactness, gpu_training, gpu_ring, gpu_attention)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for lowered in chain.from_iterable(_lowered(part.programs()) for part in parts):
            pool.submit(lowered.compile)


def _lowered(programs: Iterator) -> Iterator[jax.stages.Lowered]:
    """Yields programs; nothing more of a part whose programs cannot be made here."""
    try:
        yield from programs
    except Exception as error:
        print(f"not compiled beforehand: {error}", flush=True)
