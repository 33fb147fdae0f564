"""Shows the jobs of a sweep side by side: `python -m experiments.table sweep=<folder>`."""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import TableCommand
from experiments.cli import app as cli
from experiments.cli import sweeps


def main(config: TableCommand) -> None:
    """Prints the table and writes `<sweep>/table.csv`.

    It shows the overrides of each job, its state, its last metrics and its returns.

    Raises:
        ValueError: the folder holds no jobs.
    """
    # Imported here: a command line is checked before pandas is loaded.
    from experiments.reports.sweep_table import sweep_table

    sweep = Path(config.sweep)
    jobs = sweeps.jobs(sweep)
    if not jobs:
        raise ValueError(
            f"sweep={sweep}: no jobs are there; give the folder of a sweep, which -m makes"
        )
    table = sweep_table(jobs)
    table.to_csv(sweep / "table.csv", index=False)
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))


if __name__ == "__main__":
    cli.run(main, TableCommand)
