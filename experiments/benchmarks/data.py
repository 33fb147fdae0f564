"""Measures relabelling, stepping, sampling and collecting (suite `data`).

Rates are per second of CPU time (all threads), the best of several interleaved rounds, so that
other load on the machine does not change them. What a measurement must reach stands beside it.
Buffers that are missing are collected. That takes most of the time, and can be interrupted.
"""

from __future__ import annotations

import logging
from pathlib import Path

from experiments.benchmarks import data_collecting, data_figures, data_rates
from experiments.benchmarks.data_line import Line, shown, write


def run(folder: Path, root: Path = Path("data")) -> None:
    """Runs all measurements and writes `measurements.csv`, `returns.csv` and two figures.

    Args:
        folder: for the results.
        root: folder of the buffers.
    """
    # dm_control logs a warning for each model that it compiles.
    logging.getLogger("absl").setLevel(logging.ERROR)
    lines, returns = shown(data_rates.measure()), {}
    for task, (collector, episodes) in data_collecting.BUFFERS.items():
        of_buffer, measured = data_collecting.collect(root, task, collector, episodes)
        lines += shown(measured)
        returns |= of_buffer
    write(folder / "measurements.csv", Line._fields, lines)
    rows = [
        (*key, index, round(float(value), 3))
        for key, values in returns.items()
        for index, value in enumerate(values)
    ]
    write(folder / "returns.csv", ("buffer", "task", "episode", "return"), rows)
    data_figures.plot(folder)
