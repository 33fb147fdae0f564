"""Measures relabelling, stepping, sampling and collecting (suite `data`).

Rates are per second of CPU time (all threads), the best of several interleaved rounds, so that
other load on the machine does not change them. What a measurement must reach stands beside it.
Buffers that are missing are collected. That takes most of the time, and can be interrupted.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from experiments.benchmarks import data_collecting, data_figures, data_rates
from experiments.benchmarks.data_line import Line


def run(folder: Path, root: Path = Path("data")) -> None:
    """Runs all measurements and writes `measurements.csv`, `returns.csv` and two figures.

    Args:
        folder: for the results.
        root: folder of the buffers.
    """
    # dm_control logs a warning for each model that it compiles.
    logging.getLogger("absl").setLevel(logging.ERROR)
    lines: list[Line] = []
    for line in data_rates.measure():
        print(line.text(), flush=True)
        lines.append(line)
    returns = {}
    for task, (collector, episodes) in data_collecting.BUFFERS.items():
        of_buffer, measured = data_collecting.collect(root, task, collector, episodes)
        for line in measured:
            print(line.text(), flush=True)
            lines.append(line)
        returns |= of_buffer
    _write(folder / "measurements.csv", Line._fields, lines)
    rows = [
        (*key, index, round(float(value), 3))
        for key, values in returns.items()
        for index, value in enumerate(values)
    ]
    _write(folder / "returns.csv", ("buffer", "task", "episode", "return"), rows)
    data_figures.plot(folder)


def _write(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
