"""Shows the jobs of a sweep side by side: `python -m experiments.table sweep=<folder>`."""

from __future__ import annotations

from pathlib import Path

from agentic_transformer.config import TableCommand
from experiments.cli import app as cli


def main(config: TableCommand) -> None:
    """Prints the table of a sweep and writes `<sweep>/table.csv`."""
    # Imported here: a command line is checked before pandas is loaded.
    from experiments.reports.sweep_table import sweep_table

    table = sweep_table(Path(config.sweep))
    table.to_csv(Path(config.sweep) / "table.csv", index=False)
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))


if __name__ == "__main__":
    cli.run(main, TableCommand)
