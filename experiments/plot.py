"""Draws tables and figures from records alone.

python -m experiments.plot runs=[<run folder>,...]
"""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import PlotCommand
from experiments.cli import app as cli


def main(config: PlotCommand) -> None:
    """Draws the runs into `config.out`.

    Without `out`, a single folder is drawn into itself, several into `comparison` beside the first.

    Raises:
        ValueError: no run is named, or `present` refuses them.
    """
    # Imported here: a command line is checked before pandas and matplotlib are loaded.
    from experiments.reports.presentation import present, runs_within

    if not config.runs:
        raise ValueError("runs=[] names no run; give run folders, for example runs=[runs/a,runs/b]")
    folders = [Path(run) for run in config.runs]
    default = folders[0] if len(folders) == 1 else folders[0].parent / "comparison"
    runs = [run for folder in folders for run in runs_within(folder)]
    out = Path(config.out) if config.out else default
    present(runs, out, config.paper, config.anchors, config.conditions, config.formats)


if __name__ == "__main__":
    cli.run(main, PlotCommand)
