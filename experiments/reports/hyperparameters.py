"""Writes settings with final results where TensorBoard's HPARAMS tab shows runs side by side."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from tensorboardX import SummaryWriter

from agentic_transformer.evaluation.results_folder import find_records
from agentic_transformer.evaluation.statistics import last_returns
from agentic_transformer.run_files import LEARNING_CURVE, METRICS
from agentic_transformer.settings import flat, format_value
from experiments.reports.pictures import drawing_failure

_ELSEWHERE = ("run", "resume", "init", "logger", "data.root", "data.cache")
"""Settings that say where things lie."""


def save_hyperparameters(settings: Any, run: Path, results: Path | None = None) -> None:
    """Writes a run's settings and its results so far to `<run>/tensorboard/hparams`.

    If that fails, one line says why.

    Args:
        settings: an instance of the dataclass of the run's command.
        run: the run's folder.
        results: folder of its evaluation; None: there is none yet.
    """

    def write(folder: Path) -> None:
        found = last_metrics(run) | (_final_returns(results) if results else {})
        given = {
            key: value if isinstance(value, int | float | str) else format_value(value)
            for key, value in flat(asdict(settings)).items()
            if key not in _ELSEWHERE
        }
        with SummaryWriter(str(folder.resolve())) as events:
            events.add_hparams(given, found, name=".")

    folder = run / "tensorboard" / "hparams"
    shutil.rmtree(folder, ignore_errors=True)
    if last_metrics(run):  # else there is nothing to compare by
        drawing_failure(folder, write)


def last_metrics(run: Path) -> dict[str, float]:
    """Returns the last loss of a run that is known, and the last returns of its learning curve."""
    found = {}
    if (rows := _rows(run / METRICS)) is not None and rows["loss"].notna().any():
        found["final/loss"] = float(rows["loss"].dropna().iloc[-1])
    if (rows := _rows(run / LEARNING_CURVE)) is not None:
        last = rows[rows["step"] == rows["step"].max()]
        for number, value in zip(last["trajectories"], last["return"], strict=True):
            found[f"final/while_training_{number}"] = float(value)
    return found


def _final_returns(results: Path) -> dict[str, float]:
    """Returns the mean return of each condition at its largest number of trajectories."""
    if (path := find_records(results)) is None:
        return {}
    means = last_returns(pd.read_csv(path))
    return {f"final/{condition}_{n}": mean for (condition, n), mean in means.items()}


def _rows(path: Path) -> pd.DataFrame | None:
    if not path.exists() or not path.stat().st_size:
        return None
    rows = pd.read_csv(path)
    return None if rows.empty else rows
