"""Evaluates a trained run with a growing context.

python -m experiments.evaluate run=<run folder>
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agentic_transformer.config import EvaluateCommand, TrainCommand
from agentic_transformer.run_files import PROVENANCE, read_json
from experiments.cli import app as cli
from experiments.cli import provenance, run_folder


def main(config: EvaluateCommand, run: Path) -> Path:
    """Evaluates a run, then draws tables, figures and a video; returns the results' folder."""
    # Imported here: a command line is checked before jax, pandas and MuJoCo are loaded.
    from experiments.reports.presentation import present
    from experiments.reports.video import save_video

    folder = evaluate(config, run)
    present([folder], folder)
    save_video(config, run, folder)
    return folder


def evaluate(config: EvaluateCommand, run: Path, again: bool = True) -> Path:
    """Writes the records of a run whose settings are in its folder; returns the results' folder.

    Args:
        config: what to evaluate.
        run: folder of the trained run.
        again: whether to repeat an evaluation that is finished.

    Raises:
        ValueError: see `agentic_transformer.evaluation.evaluate`.
    """
    # Imported here: a command line is checked before jax, pandas and MuJoCo are loaded.
    from agentic_transformer.agents.load import describe_acting
    from agentic_transformer.evaluation import evaluate as evaluation
    from agentic_transformer.training.computation import computation_line
    from experiments.reports.hyperparameters import save_hyperparameters

    trained = run_folder.read_config(run, TrainCommand)
    facts = provenance.collect([], seeds={})
    code = {key: facts[key] for key in ("commit", "python", "packages")}
    code["uncommitted changes"] = provenance.changes()
    acting = describe_acting(trained, config.mesh.ring)
    print(computation_line(acting), flush=True)
    folder = evaluation.evaluate(config, run, trained, code, again)
    if again or "acting" not in read_json(folder / PROVENANCE):  # else it was finished before
        provenance.add_provenance(folder, acting=acting)
        if folder.resolve().is_relative_to(run.resolve()):  # else the run stays as it is
            task = config.task or trained.task
            save_hyperparameters(replace(trained, task=task, eval=config.eval), run, folder)
    return folder


if __name__ == "__main__":
    cli.run(main, EvaluateCommand)
