"""The jobs of a sweep, side by side: `python -m experiments.table sweep=<folder>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentic_transformer.config import TableCommand
from experiments.cli import app as cli

if TYPE_CHECKING:
    import pandas as pd


def main(config: TableCommand) -> None:
    """Prints the table and writes `<sweep>/table.csv`: of each job its overrides, its state, its
    last metrics and its returns.
    """
    import pandas as pd

    from experiments.cli.sweeps import jobs as jobs_of

    sweep = Path(config.sweep)
    jobs = jobs_of(sweep)
    if not jobs:
        raise ValueError(
            f"sweep={sweep}: no jobs are there; give the folder of a sweep, which -m makes"
        )
    table = pd.DataFrame(map(_line, jobs))
    table.to_csv(sweep / "table.csv", index=False)
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))


def _line(job: Path) -> dict[str, Any]:
    """What a job's files say so far; the agents within a quickstart's job by their names."""
    from experiments.cli.evaluation_folder import RECORDS
    from experiments.cli.run_folder import status

    told = status(job)
    line = {"job": job.name, "state": told.get("state")}
    line |= {key: value for key, value in _settings(job).items() if key not in ("run", "resume")}
    for path in sorted(job.rglob("metrics.csv")):
        agent = "" if path.parent == job else f"{path.parent.name} "
        # It is empty until the first row is due.
        if path.stat().st_size and (rows := _read(path, ("step", "loss", "seconds"))) is not None:
            line |= {f"{agent}{name}": rows[name].iloc[-1] for name in ("step", "loss", "seconds")}
    results = Path(told.get("results", job))
    found = next((results / name for name in RECORDS if (results / name).exists()), None)
    if found and (records := _read(found, ("condition", "trajectories", "return"))) is not None:
        last = records[
            records["trajectories"] == records.groupby("condition")["trajectories"].transform("max")
        ]
        for (condition, trajectories), value in (
            last.groupby(["condition", "trajectories"])["return"].mean().items()
        ):
            line[f"return {condition} [{trajectories}]"] = value
    return line


def _settings(job: Path) -> dict[str, str]:
    """The overrides of a job by their settings; says so where they cannot be read."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from experiments.cli.overrides import values_by_key as said
    from experiments.cli.run_folder import OVERRIDES, read_overrides

    try:
        return said(read_overrides(job))
    except (OSError, HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        print(f"{job / OVERRIDES} cannot be read: {str(error).splitlines()[0]}", file=sys.stderr)
        return {}


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame | None:
    """A table with these columns, the second and later of numbers; None, and one line that says
    why, where it is not that.
    """
    import pandas as pd

    try:
        rows = pd.read_csv(path)
        numbers = rows[list(columns[1:])].apply(pd.to_numeric)
    except (OSError, ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        print(f"{path} is left out: {' '.join(str(error).split())}", file=sys.stderr)
        return None
    if rows.empty:
        print(f"{path} is left out: it holds only a header", file=sys.stderr)
        return None
    return rows.assign(**numbers)


if __name__ == "__main__":
    cli.run(main, TableCommand)
