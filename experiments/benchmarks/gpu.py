"""Runs the suite `gpu` on one accelerator, in at most eight minutes: how exact, how fast.

Programs are compiled first, side by side. Then each part is a process of its own: one that dies
takes no other with it, and the peak of memory is that of the part. A row that cannot be measured
says why in its note. On a CPU the sizes are tiny: there the suite only shows that it works.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmarks import tables

_COMPILED = 100
"""Seconds from the start after which the parts begin, whether all programs are compiled or not."""

_PARTS = {
    "exactness": 130,
    "attention": 220,
    "ring": 295,
    "training": 395,
    "acting": 420,
    "quickstart": 465,
}
"""Seconds from the start, of `_SECONDS`, after which a part begins no more rows; what a part does
not use is left to the next ones. The module of a part is `gpu_<part>`, with a function `rows`."""

_SECONDS = 475
"""Seconds that the suite may take."""

_OVERRUN = 25
"""Seconds after its end at which a part is ended by force."""


def run(folder: Path, seconds: float = _SECONDS) -> None:
    """Runs every part and writes `<part>.csv` and `<part>.png` into `folder`.

    Args:
        folder: where the results go.
        seconds: that all of it may take; a slow CPU needs more.
    """
    start, scale = time.monotonic(), seconds / _SECONDS
    with tempfile.TemporaryDirectory() as programs:
        if code := _run_process(_compile, (programs,), start + scale * _COMPILED):
            print(f"compiling ended by code {code}: the parts compile the rest", flush=True)
        for name, ends in _PARTS.items():
            path = folder / f"{name}.csv"
            for before in (path, path.with_suffix(".png")):  # of a run that was killed
                before.unlink(missing_ok=True)
            code = _run_process(
                _measure,
                (name, path, programs, start + scale * ends),
                start + scale * min(ends + _OVERRUN, _SECONDS),
            )
            table = pd.read_csv(path, dtype=str) if path.exists() else pd.DataFrame()
            if code:
                note = {"note": f"ended by code {code} after {len(table)} rows"}
                table = pd.concat([table, pd.DataFrame([note])])
                table.to_csv(path, index=False)
            print(f"\n{name}\n{table.to_string(index=False, na_rep='')}", flush=True)
    # Imported here: a part must have the accelerator's memory to itself, and now they are done.
    from experiments.benchmarks.gpu_figures import plot

    plot(folder)
    _show_devices()


def _run_process(target: Callable, arguments: tuple, deadline: float) -> int:
    """Runs a function in a process of its own, until a time by the monotonic clock at most.

    Returns:
        The exit code of the process, which is negative if it was ended by force.
    """
    # Spawned: a process that jax has started in cannot be forked.
    process = get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join(max(0.0, deadline - time.monotonic()))
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _compile(programs: str) -> None:
    """Compiles what the parts run, in a process of its own."""
    # Imported here: it starts jax.
    from experiments.benchmarks.gpu_programs import compile_programs

    compile_programs(programs)


def _measure(name: str, path: Path, programs: str, ends: float) -> None:
    """Measures a part in a process of its own, and keeps each row as it comes."""
    # Imported here: they start jax.
    from experiments.benchmarks.gpu_timing import Clock, keep_programs

    keep_programs(programs)
    rows: list[dict[str, Any]] = []
    for row in import_module(f"experiments.benchmarks.gpu_{name}").rows(Clock(ends)):
        rows.append(row)
        tables.save(path, rows)


def _show_devices() -> None:
    """Starts jax, so that the provenance of the suite names the card."""
    # Imported here, for the reason in `run`.
    import jax

    print(f"\nmeasured on {jax.devices()[0].device_kind}", flush=True)
