"""Formats returns and comparisons as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from agentic_transformer.config import BASELINES
from experiments.reports.condition_looks import NAMES

ENOUGH_UNITS = 20
"""Fewest rollouts from which a conclusion is drawn; of fewer, the interval of one seed is too
narrow."""

NOTHING = 0.01
"""Share of the last return below which the first is as good as 0: a ratio would say nothing."""


def reported(rows: pd.DataFrame) -> list[int]:
    """Returns the numbers of trajectories to show: powers of two, and each agent's largest.

    Args:
        rows: of records or of a summary; the columns agent, task and trajectories are enough.
    """
    largest = set(rows.groupby(["agent", "task"])["trajectories"].max())
    present = sorted(int(n) for n in rows["trajectories"].unique())
    return [n for n in present if n & (n - 1) == 0 or n in largest]


def at_longest(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a summary at each agent's largest number of trajectories."""
    longest = summary.groupby(["agent", "task", "condition"])["trajectories"].transform("max")
    return summary[summary["trajectories"] == longest]


def with_context(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of a summary of agents and conditions that have a context at some n."""
    longest = summary.groupby(["agent", "task", "condition"])["context_tokens"].transform("max")
    return summary[longest > 0]


def with_intervals(
    table: pd.DataFrame, columns: Sequence[str] = ("mean", "low", "high"), form: str = ".2f"
) -> list[str]:
    """Returns the text `mean [low, high]` of each row, from the columns of these figures."""
    return [
        f"{middle:{form}} [{low:{form}}, {high:{form}}]"
        for middle, low, high in table[list(columns)].to_numpy()
    ]


def too_few(units: int) -> str:
    """Says that nothing is concluded from this many rollouts."""
    return f"{units} rollouts, too few to conclude from"


def table_text(summary: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Formats the returns by number of trajectories, and the paired differences at the largest.

    Nothing is concluded from fewer than `ENOUGH_UNITS` rollouts. No ratio is formed if the interval
    of the first return reaches down to 0, or to `NOTHING` of the last return.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`.
        comparisons: result of `agentic_transformer.evaluation.statistics.compare`.
    """
    blocks = []
    for task, rows in summary.groupby("task", sort=False):
        rows = rows.sort_values("trajectories", kind="stable")
        own = rows[rows["condition"] == "own"]
        rows = rows[rows["trajectories"].isin(reported(rows))]
        rows = rows.assign(
            cell=with_intervals(rows),
            who=rows["agent"] + ": " + rows["condition"].map(NAMES),
            n=[f"n={n}" for n in rows["trajectories"]],
        )
        table = rows.pivot(index="who", columns="n", values="cell").fillna("")
        table = table.loc[rows["who"].unique(), rows["n"].unique()].rename_axis(
            index=None, columns=None
        )
        blocks.append(
            f"{task}: return of the n-th attempt, mean [95% interval]\n{table.to_string()}"
        )
        for agent, curve in own.groupby("agent", sort=False):
            first, last = curve.iloc[0], curve.iloc[-1]
            reaches_nothing = first["low"] <= max(0.0, NOTHING * last["mean"])
            enough = first["units"] >= ENOUGH_UNITS and not reaches_nothing
            if enough and first["trajectories"] < last["trajectories"]:
                blocks.append(
                    f"{agent}, {NAMES['own']}: n={last['trajectories']} earns "
                    f"{last['mean'] / first['mean']:.1f} times what n={first['trajectories']} earns"
                )
    for row in last_comparisons(comparisons).itertuples():
        verdict = "above 0" if row.low > 0 else "below 0" if row.high < 0 else "0 not excluded"
        if row.units < ENOUGH_UNITS:
            verdict = too_few(row.units)
        said = f"{row.difference:+.2f} [{row.low:.2f}, {row.high:.2f}], {verdict}"
        blocks.append(
            f"{row.task}, {row.agent}, n={row.trajectories}: "
            f"{NAMES['own']} minus {row.other}: {said}"
        )
    return "\n".join(blocks)


def last_comparisons(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Returns the comparison of each pair that is compared, at its largest n.

    Args:
        comparisons: result of `agentic_transformer.evaluation.statistics.compare`.

    Returns:
        Its columns, and `other`: what own contexts are compared with, in words. Several baselines
        of one kind are told apart by their agents' names.
    """
    pairs = comparisons.groupby(["agent", "task", "against", "baseline"])["trajectories"]
    last = comparisons[comparisons["trajectories"] == pairs.transform("max")]
    baselines = last[last["against"].isin(BASELINES)].groupby("against")["baseline"].nunique()
    other = [
        f"{NAMES[against]}: {baseline}" if baselines.get(against, 1) > 1 else NAMES[against]
        for against, baseline in zip(last["against"], last["baseline"], strict=True)
    ]
    return last.assign(other=other)


def return_text(earned: float) -> str:
    """Returns a return in three digits; less than a hundredth is 0, since 1e-7 says no more."""
    return f"{earned:.3g}" if abs(earned) >= 0.01 else "0"
