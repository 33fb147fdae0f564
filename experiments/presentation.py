"""What people look at, from records alone; neither an environment nor a model is touched, nor jax or MuJoCo imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agentic_transformer import statistics
from experiments import figures

REPORTED = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of trajectories that the printed table and the picture of attempts show, as far as they were evaluated."""


def present(runs: Sequence[Path], out: Path) -> None:
    """Writes the tables and figures of some runs, together, and prints the table and where things are.

    Args:
        runs: run folders, each with a `records.csv`.
        out: folder for `summary.csv`, `comparisons.csv`, `return_vs_context.png`, `attempts.png`, and
            unless it is one of the runs, `records.csv` of all of them.

    Raises:
        ValueError: a run has no records, or records that cannot be read together.
    """
    records = statistics.join([statistics.read_records(_records_of(run)) for run in runs])
    out.mkdir(parents=True, exist_ok=True)
    summary, comparisons = statistics.summarise(records), statistics.compare(records)
    written = {"summary": summary, "comparisons": comparisons}
    if out not in runs:
        written["records"] = records
    for name, table in written.items():
        table.to_csv(out / f"{name}.csv", index=False)
    trained = int(records["trained_trajectories"].max())
    figures.return_vs_context(summary, trained, out / "return_vs_context.png")
    rollouts = next((run / "rollouts.npz" for run in runs if (run / "rollouts.npz").exists()), None)
    if rollouts:
        figures.attempts(rollouts, [n for n in REPORTED if n <= summary["trajectories"].max()], out / "attempts.png")
    print(table_text(summary, comparisons), flush=True)
    names = [f"{name}.csv" for name in written] + ["return_vs_context.png"] + (["attempts.png"] if rollouts else [])
    print("\n".join(str(out / name) for name in names), flush=True)


def table_text(summary: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """The last trajectory's return by condition and number of trajectories, and the paired differences at the longest context."""
    shown = summary[summary["trajectories"].isin(REPORTED)]
    blocks = []
    for task, rows in shown.groupby("task", sort=False):
        cells = [f"{m:.2f} [{low:.2f}, {high:.2f}]" for m, low, high in zip(rows["mean"], rows["low"], rows["high"], strict=True)]
        rows = rows.assign(cell=cells, who=rows["agent"] + " " + rows["condition"], n=[f"n={n}" for n in rows["trajectories"]])
        table = rows.pivot(index="who", columns="n", values="cell").fillna("")
        table = table.loc[rows["who"].unique(), rows["n"].unique()].rename_axis(index=None, columns=None)
        blocks.append(f"{task}: return of the n-th trajectory, mean [95% interval]\n{table.to_string()}")
    for row in comparisons[comparisons["trajectories"] == comparisons["trajectories"].max()].itertuples():
        verdict = "above 0" if row.low > 0 else "below 0" if row.high < 0 else "0 not excluded"
        said = f"{row.difference:+.2f} [{row.low:.2f}, {row.high:.2f}], {verdict}"
        blocks.append(f"{row.agent}, n={row.trajectories}: own - {row.against} = {said}")
    return "\n".join(blocks)


def _records_of(run: Path) -> Path:
    records = run / "records.csv"
    if not records.exists():
        raise ValueError(f"no records in {run}; evaluate it first: python -m experiments.evaluate run={run}")
    return records
