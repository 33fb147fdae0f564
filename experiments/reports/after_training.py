"""Shows the results of a training run, beside its log."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from agentic_transformer.config import TrainCommand
from agentic_transformer.run_files import LEARNING_CURVE
from experiments.reports.hyperparameters import save_hyperparameters
from experiments.reports.pictures import drawing_failure


def show_training(config: TrainCommand, run: Path) -> None:
    """Draws the learning curve, if there is one, and shows settings with results in TensorBoard.

    Args:
        config: settings of the run.
        run: the run's folder.
    """

    def draw(path: Path) -> None:
        # Imported here: if matplotlib finds no place for its files, the figure fails alone.
        from experiments.reports.learning_curve_figure import learning_curves

        learning_curves([(config.agent.name, config.task, pd.read_csv(curve))], path)

    curve = run / LEARNING_CURVE
    if curve.exists() and not drawing_failure(curve.with_suffix(".png"), draw):
        print(curve.with_suffix(".png"), flush=True)
    save_hyperparameters(config, run)
