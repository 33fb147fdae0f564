"""The jobs of a sweep, side by side: `python -m experiments.table sweep=<folder>`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentic_transformer.config import TableCommand
from experiments.harness import cli


def main(config: TableCommand) -> None:
    """Prints the table and writes `<sweep>/table.csv`: of each job its overrides, its state, its last metrics and its returns."""
    import pandas as pd

    from experiments.harness.sweeps import jobs as jobs_of

    sweep = Path(config.sweep)
    jobs = jobs_of(sweep)
    if not jobs:
        raise ValueError(f"sweep={sweep}: no jobs are there; give the folder of a sweep, which -m makes")
    table = pd.DataFrame(map(_line, jobs))
    table.to_csv(sweep / "table.csv", index=False)
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep=""))


def _line(job: Path) -> dict[str, Any]:
    """What a job's files say so far; the agents within a quickstart's job by their names."""
    import pandas as pd

    from experiments.harness.overrides import said
    from experiments.harness.run_folder import read_overrides, status

    line = {"job": job.name, "state": status(job).get("state")}
    settings = said(read_overrides(job))
    line |= {key: value for key, value in settings.items() if key not in ("run", "resume")}
    for path in sorted(job.rglob("metrics.csv")):
        agent = "" if path.parent == job else f"{path.parent.name} "
        if path.stat().st_size and len(rows := pd.read_csv(path)):  # it is empty until the first row is due
            line |= {f"{agent}{name}": rows[name].iloc[-1] for name in ("step", "loss", "seconds")}
    if (job / "records.csv").exists():
        records = pd.read_csv(job / "records.csv")
        last = records[records["trajectories"] == records.groupby("condition")["trajectories"].transform("max")]
        for (condition, trajectories), value in last.groupby(["condition", "trajectories"])["return"].mean().items():
            line[f"return {condition} [{trajectories}]"] = value
    return line


if __name__ == "__main__":
    cli.run(main, TableCommand)
