"""Shows the jobs of a sweep side by side: `python -m experiments.table sweep=<folder>`."""

from __future__ import annotations

import sys
from pathlib import Path

from agentic_transformer.config import TableCommand
from experiments.cli import app as cli


def main(config: TableCommand) -> None:
    """Prints the table of a sweep's jobs, and that of its agents with their seeds joined.

    They are written to `<sweep>/table.csv` and to `<sweep>/variants.csv`, `.md` and `.tex`. If the
    sweep varies a number, `<sweep>/return_vs_setting.png` shows the last return against it.
    """
    # Imported here: a command line is checked before pandas is loaded.
    from experiments.reports.sweep_table import job_results, sweep_table
    from experiments.reports.variants_table import (
        in_cells,
        returns_by_setting,
        save_tables,
        variants_table,
    )

    sweep = Path(config.sweep)
    table = sweep_table(sweep)
    table.to_csv(sweep / "table.csv", index=False)
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))
    try:
        agents, varied = variants_table(job_results(sweep)), returns_by_setting(sweep)
    except ValueError as error:  # the table of the jobs stands
        print(f"no table of agents: {str(error).splitlines()[0]}", file=sys.stderr)
        return
    if len(agents):
        print("\nlast return, mean [95% interval]; seeds joined")
        print(in_cells(agents).to_string(index=False))
        print("\n".join(map(str, save_tables(agents, sweep / "variants"))))
    if varied:
        # Imported here: most sweeps need no matplotlib.
        from experiments.reports.setting_figure import return_vs_setting

        return_vs_setting(*varied, sweep / "return_vs_setting.png")
        print(sweep / "return_vs_setting.png")


if __name__ == "__main__":
    cli.run(main, TableCommand)
