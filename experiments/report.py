"""Writes one HTML file about runs: `python -m experiments.report runs=[<run folder>,...]`."""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import ReportCommand
from experiments.cli import app as cli


def main(config: ReportCommand) -> None:
    """Writes the report of evaluated runs, or of the jobs of sweeps.

    Raises:
        ValueError: no run is named, or their records cannot be shown together.
    """
    # Imported here: a command line is checked before pandas and matplotlib are loaded.
    from experiments.cli.folders import runs_to_show
    from experiments.reports.html_report import write_report

    runs, place = runs_to_show(config.runs)
    path = Path(config.out) if config.out else place / "report.html"
    write_report(runs, path, config.conditions)
    print(path, flush=True)


if __name__ == "__main__":
    cli.run(main, ReportCommand)
