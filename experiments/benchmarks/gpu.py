"""Runs the suite `gpu` on one accelerator, in at most eight minutes: how exact, how fast.

Each part is a process of its own: one that dies takes no other with it, and the peak of memory is
that of the part. A row that cannot be measured says why in its note. On a CPU the sizes are tiny:
there the suite only shows that it works.
"""

from __future__ import annotations

import time
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmarks import tables

_PARTS = {
    "exactness": 80,
    "attention": 180,
    "ring": 280,
    "training": 380,
    "acting": 420,
    "quickstart": 465,
}
"""Seconds from the start, of `_SECONDS`, after which a part begins no more rows; what a part does
not use is left to those behind it. The module of a part is `gpu_<part>`, with a function `rows`."""

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
    for name, ends in _PARTS.items():
        path = folder / f"{name}.csv"
        path.unlink(missing_ok=True)
        # Spawned: a process that jax has started in cannot be forked.
        part = get_context("spawn").Process(
            target=_measure, args=(name, path, start + scale * ends)
        )
        part.start()
        deadline = start + scale * min(ends + _OVERRUN, _SECONDS)
        part.join(max(0.0, deadline - time.monotonic()))
        if part.exitcode is None:
            part.kill()
            part.join()
        table = pd.read_csv(path, dtype=str) if path.exists() else pd.DataFrame()
        if part.exitcode:
            note = {"note": f"ended by code {part.exitcode} after {len(table)} rows"}
            table = pd.concat([table, pd.DataFrame([note])])
            table.to_csv(path, index=False)
        print(f"\n{name}\n{table.to_string(index=False, na_rep='')}", flush=True)
    # Imported here: a part must have the accelerator's memory to itself, and now they are done.
    from experiments.benchmarks.gpu_figures import plot

    plot(folder)
    _show_devices()


def _measure(name: str, path: Path, ends: float) -> None:
    """Measures a part in a process of its own, and keeps each row as it comes."""
    # Imported here: it starts jax.
    from experiments.benchmarks.gpu_timing import Clock

    rows: list[dict[str, Any]] = []
    for row in import_module(f"experiments.benchmarks.gpu_{name}").rows(Clock(ends)):
        rows.append(row)
        tables.save(path, rows)


def _show_devices() -> None:
    """Starts jax, so that the provenance of the suite names the card."""
    # Imported here, for the reason in `run`.
    import jax

    print(f"\nmeasured on {jax.devices()[0].device_kind}", flush=True)
