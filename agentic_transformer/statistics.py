"""Records -> means with 95% confidence intervals. Knows nothing of environments or models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

UNIT = ["seed", "task_id", "rollout"]
"""What is resampled, and what conditions are paired by: one hidden task of one seed (and which of its repetitions)."""

KEY = ["agent", "task", "condition", *UNIT, "trajectories"]
"""What no two records share."""

REQUIRED = [
    "agent", "task", "condition", "seed", "task_id", "trajectories", "context_steps", "trained_trajectories", "return",
]  # fmt: skip
"""Columns that records must have."""

RESAMPLES = 9999


def read_records(path: Path) -> pd.DataFrame:
    """Records of one run.

    Args:
        path: a `records.csv`.

    Returns:
        The table; `rollout` is 0 where the file has no such column.

    Raises:
        ValueError: the file lacks columns, or holds a row twice.
    """
    records = pd.read_csv(path)
    missing = [column for column in REQUIRED if column not in records]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; records need {REQUIRED}")
    if "rollout" not in records:
        records["rollout"] = 0
    repeated = records.duplicated(KEY)
    if repeated.any():
        raise ValueError(f"{path} holds two rows with the same {KEY}, the second in line {int(np.argmax(repeated)) + 2}")
    return records


def join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several runs' records.

    Raises:
        ValueError: two runs hold the same rows (the same agent, task, condition and seed): a mean would count one run twice.
    """
    joined = pd.concat(tables, ignore_index=True)
    repeated = joined[joined.duplicated(KEY)]
    if len(repeated):
        same = repeated.iloc[0][["agent", "task", "condition", "seed"]].to_dict()
        raise ValueError(
            f"two of the runs hold the same records, of {same}; name each run once, and give agents that differ different names"
        )
    return joined


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95% percentile-bootstrap interval.

    Args:
        values: (units,) one value per unit, at least two.

    Returns:
        Mean, lower and upper end.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean()), float(values.mean())
    result = bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=999, rng=np.random.default_rng(0))
    return float(values.mean()), float(result.confidence_interval.low), float(result.confidence_interval.high)


def with_best(records: pd.DataFrame) -> pd.DataFrame:
    """Adds `best`: the largest return among the attempts 1..n of a unit (the protocol of arXiv 2305.16554)."""
    ordered = records.sort_values("trajectories", kind="stable")
    return ordered.assign(best=ordered.groupby(["agent", "task", "condition", *UNIT])["return"].cummax())


def summarise(records: pd.DataFrame) -> pd.DataFrame:
    """Last-trajectory return and best of n, by agent, task, condition and number of trajectories.

    Returns:
        Columns agent, task, condition, trajectories, units, mean, low, high, best_mean, best_low, best_high.
    """
    rows = []
    for group, table in with_best(records).groupby(["agent", "task", "condition", "trajectories"], sort=False):
        mean, best = interval(table["return"].to_numpy()), interval(table["best"].to_numpy())
        rows.append((*group, len(table), *mean, *best))
    names = ["mean", "low", "high", "best_mean", "best_low", "best_high"]
    return pd.DataFrame(rows, columns=["agent", "task", "condition", "trajectories", "units", *names])


def compare(records: pd.DataFrame) -> pd.DataFrame:
    """How much more the own context earns than each other condition, paired by unit.

    Returns:
        Columns agent, task, against, trajectories, units, difference, low, high.
    """
    rows = []
    own = records[records["condition"] == "own"]
    for (agent, task, number), mine in own.groupby(["agent", "task", "trajectories"]):
        there = records[(records["task"] == task) & (records["trajectories"] == number) & (records["condition"] != "own")]
        # The baseline is another agent; every other condition is a control of the same one.
        controls = there[(there["agent"] == agent) | (there["condition"] == "dt")]
        for condition, theirs in controls.groupby("condition"):
            pairs = mine.merge(theirs, on=UNIT, suffixes=("", "_other"))
            if len(pairs):
                difference = (pairs["return"] - pairs["return_other"]).to_numpy()
                rows.append((agent, task, condition, number, len(pairs), *interval(difference)))
    return pd.DataFrame(rows, columns=["agent", "task", "against", "trajectories", "units", "difference", "low", "high"])
