"""Measures relabelling, stepping, sampling and collecting (suite `data`).

Rates are per second of CPU time (all threads), the best of several interleaved rounds, so that
other load on the machine does not change them. What a measurement must reach stands beside it.
Collecting takes most of the time. After a kill, a run goes on after the parts and the episodes that
it finds in the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agentic_transformer.run_files import read_json, write_json
from experiments.benchmarks import data_collecting, data_figures, data_rates
from experiments.benchmarks.data_line import Line, shown, write


def run(folder: Path) -> None:
    """Runs all measurements and writes `measurements.csv`, `returns.csv` and two figures.

    Args:
        folder: for the results; `parts` and `buffers` in it are of use until they are there.
    """
    # dm_control logs a warning for each model that it compiles.
    logging.getLogger("absl").setLevel(logging.ERROR)
    parts: dict[str, Callable[[], tuple[list[Line], list[tuple]]]] = {
        name: lambda measure=measure: (shown(measure()), [])
        for name, measure in data_rates.PARTS.items()
    }
    for task, (collector, episodes) in data_collecting.BUFFERS.items():
        parts[task] = partial(_collect, folder / "buffers", task, collector, episodes)
    (folder / "parts").mkdir(exist_ok=True)
    lines, returns = [], []
    for name, measure in parts.items():
        path = folder / "parts" / f"{name}.json"
        if not path.exists():
            write_json(path, dict(zip(("lines", "returns"), measure(), strict=True)))
        measured = read_json(path)
        lines += measured["lines"]
        returns += measured["returns"]
    write(folder / "measurements.csv", Line._fields, lines)
    write(folder / "returns.csv", ("buffer", "task", "episode", "return"), returns)
    data_figures.plot(folder)


def _collect(
    root: Path, task: str, collector: str, episodes: int
) -> tuple[list[Line], list[tuple]]:
    """Returns the measurements of a buffer, and rows of its returns."""
    returns, lines = data_collecting.collect(root, task, collector, episodes)
    rows = [
        (*key, index, round(float(value), 3))
        for key, values in returns.items()
        for index, value in enumerate(values)
    ]
    return shown(lines), rows
