"""Tables and figures from records alone: `python -m experiments.plot runs=[<run folder>,...]`."""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import PlotCommand
from experiments.cli import app as cli


def main(config: PlotCommand) -> None:
    """Plots the runs into `out`; by default a single folder into itself, several into `comparison`
    beside the first.
    """
    from experiments.reports.presentation import present, runs_within

    if not config.runs:
        raise ValueError("runs=[] names no run; give run folders, for example runs=[runs/a,runs/b]")
    folders = [Path(run) for run in config.runs]
    default = folders[0] if len(folders) == 1 else folders[0].parent / "comparison"
    present(
        [run for folder in folders for run in runs_within(folder)],
        Path(config.out) if config.out else default,
    )


if __name__ == "__main__":
    cli.run(main, PlotCommand)
