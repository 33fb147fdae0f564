"""Tables and figures from records alone: `python -m experiments.plot runs=[<run folder>,...]`.

Neither an environment nor a model is touched; jax and MuJoCo are not even imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agentic_transformer import statistics
from agentic_transformer.config import PlotCommand
from experiments import cli, figures

REPORTED = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of trajectories that the printed table and the picture of attempts show, as far as they were evaluated."""


def plot(runs: Sequence[Path], out: Path) -> None:
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
    blocks = []
    for (agent, task), rows in summary.groupby(["agent", "task"], sort=False):
        shown = rows[rows["trajectories"].isin(REPORTED)].copy()
        shown["cell"] = [
            f"{m:.2f} [{low:.2f}, {high:.2f}]" for m, low, high in zip(shown["mean"], shown["low"], shown["high"], strict=True)
        ]
        table = shown.pivot(index="condition", columns="trajectories", values="cell").fillna("")
        table = table.reindex([condition for condition in figures.STYLES if condition in table.index])
        table.columns = [f"n={n}" for n in table.columns]
        table.index.name = None
        blocks.append(f"{task}, {agent}: return of the n-th trajectory, mean [95% interval]\n{table.to_string()}")
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


def main(config: PlotCommand) -> None:
    """Plots the runs into `out`; by default a single run into its own folder, several into `comparison` beside the first."""
    if not config.runs:
        raise ValueError("runs=[] names no run; give run folders, for example runs=[runs/a,runs/b]")
    runs = [Path(run) for run in config.runs]
    default = runs[0] if len(runs) == 1 else runs[0].parent / "comparison"
    plot(runs, Path(config.out) if config.out else default)


if __name__ == "__main__":
    cli.run(main, PlotCommand)
