"""Draws tables and figures from records alone.

python -m experiments.plot runs=[<run folder>,...]
"""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import PlotCommand
from experiments.cli import app as cli


def main(config: PlotCommand) -> None:
    """Draws the runs into `config.out`, or into the place that `runs_to_show` returns.

    Raises:
        ValueError: no run is named, or `present` refuses them.
    """
    # Imported here: a command line is checked before pandas and matplotlib are loaded.
    from experiments.cli.folders import runs_to_show
    from experiments.reports.presentation import present

    runs, place = runs_to_show(config.runs)
    out = Path(config.out) if config.out else place
    present(runs, out, config.paper, config.anchors, config.conditions, config.formats)


if __name__ == "__main__":
    cli.run(main, PlotCommand)
