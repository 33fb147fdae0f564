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
    from experiments.reports.html_report import write_report
    from experiments.reports.presentation import runs_within

    if not config.runs:
        raise ValueError("runs=[] names no run; give run folders, for example runs=[runs/a,runs/b]")
    folders = [Path(run) for run in config.runs]
    place = folders[0] if len(folders) == 1 else folders[0].parent / "comparison"
    runs = [run for folder in folders for run in runs_within(folder)]
    path = Path(config.out) if config.out else place / "report.html"
    write_report(runs, path, config.conditions)
    print(path, flush=True)


if __name__ == "__main__":
    cli.run(main, ReportCommand)
