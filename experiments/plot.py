"""Tables and figures from records alone: `python -m experiments.plot runs=[<run folder>,...]`."""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import PlotCommand
from experiments import cli


def main(config: PlotCommand) -> None:
    """Plots the runs into `out`; by default a single run into its own folder, several into `comparison` beside the first."""
    from experiments.presentation import present

    if not config.runs:
        raise ValueError("runs=[] names no run; give run folders, for example runs=[runs/a,runs/b]")
    runs = [Path(run) for run in config.runs]
    default = runs[0] if len(runs) == 1 else runs[0].parent / "comparison"
    present(runs, Path(config.out) if config.out else default)


if __name__ == "__main__":
    cli.run(main, PlotCommand)
