"""Records -> means with 95% confidence intervals. Knows nothing of environments or models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

UNIT = ["seed", "task_id", "rollout"]
"""What is resampled, and what conditions are paired by: one hidden task of one seed (and which of
its repetitions)."""

KEY = ["agent", "task", "condition", *UNIT, "trajectories"]
"""What no two records share."""

REQUIRED = [
    "agent", "task", "condition", "seed", "task_id", "trajectories", "context_steps", "trained_trajectories", "return",
]  # fmt: skip
"""Columns that records must have."""

NUMERIC = [
    "seed", "rollout", "trajectories", "context_steps", "context_tokens", "trained_trajectories", "best_return", "again",
    "return",
]  # fmt: skip
"""Columns of numbers."""

BASELINES = ("dt", "bc", "bc10", "td3_bc")
"""Conditions of agents that act without a context: each is another agent, compared with whatever
has one."""

CONDITIONS = (
    "own",
    "no_context",
    "foreign",
    "dataset",
    *BASELINES,
    "bayes_greedy",
    "posterior_sampling",
)
"""What may stand in the column `condition`, see `agentic_transformer.evaluation.rollouts`."""

RESAMPLES = 2000

FOUND = 0.5
"""An attempt that earns this share of the best return in its task's data has found the goal."""


def read_records(path: Path) -> pd.DataFrame:
    """Records of one run.

    Args:
        path: a `records.csv` (or `.csv.gz`).

    Returns:
        The table; `rollout` is 0, `best_return`, `context_tokens` and `again` are NaN where the
        file has no such column.

    Raises:
        ValueError: the file is empty or only a header, cut short, without a column, has an unknown
            condition, a text where a number belongs, or a row twice.
    """
    try:
        records = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from None
    missing = [column for column in REQUIRED if column not in records]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; records need {REQUIRED}")
    if records.empty:
        raise ValueError(f"{path} holds no records, only their header; evaluate the run again")
    optional = {"rollout": 0, "best_return": np.nan, "context_tokens": np.nan, "again": np.nan}
    records = records.assign(
        **{column: records.get(column, default) for column, default in optional.items()}
    )
    incomplete = records[[*REQUIRED, "rollout"]].isna().any(axis=1)
    if incomplete.any():
        raise ValueError(f"{path} lacks values in line {_line(incomplete)}: was it cut short?")
    for column in NUMERIC:
        if column in records and not pd.api.types.is_numeric_dtype(records[column]):
            wrong = pd.to_numeric(records[column], errors="coerce").isna() & records[column].notna()
            value = records.loc[wrong, column].iloc[0]
            raise ValueError(
                f"{path} has {column}={value!r} in line {_line(wrong)}; it must be a number"
            )
    unknown = ~records["condition"].isin(CONDITIONS)
    if unknown.any():
        condition = records.loc[unknown, "condition"].iloc[0]
        raise ValueError(
            f"{path} has the unknown condition {condition!r} in line {_line(unknown)}; there are {CONDITIONS}"
        )
    repeated = records.duplicated(KEY)
    if repeated.any():
        raise ValueError(
            f"{path} holds two rows with the same {KEY}, the second in line {_line(repeated)}"
        )
    return records


def _line(rows: pd.Series) -> int:
    """Line of a file, counted from 1 and with its header, of the first row that is True."""
    return int(np.argmax(rows)) + 2


def join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of several runs' records.

    Raises:
        ValueError: two runs hold the same rows (the same agent, task, condition and seed): a mean
            would count one run twice.
    """
    joined = pd.concat(tables, ignore_index=True)
    repeated = joined[joined.duplicated(KEY)]
    if len(repeated):
        same = repeated.iloc[0][["agent", "task", "condition", "seed"]].to_dict()
        raise ValueError(f"two of the runs hold the same records, of {same}; name each run once")
    return joined


def interval(
    values: pd.Series, seeds: pd.Series, *, iqm: bool = False
) -> tuple[float, float, float]:
    """Mean over seeds of the mean over a seed's units, and its 95% bootstrap interval.

    The bootstrap has two stages, since the units of a seed share one trained model: seeds are drawn
    with replacement, then units within each of them. With one seed it is the plain percentile
    bootstrap over units, and says nothing about other seeds.

    Args:
        values: one per unit.
        seeds: the seed of each unit.
        iqm: the interquartile mean of all units instead, which a few extreme ones do not move
            (arXiv 2108.13264).

    Returns:
        Mean, lower and upper end.
    """
    rng = np.random.default_rng(0)
    groups = [group.to_numpy(np.float64) for _, group in values.groupby(seeds.to_numpy())]
    drawn = rng.integers(len(groups), size=(RESAMPLES, len(groups)))
    samples = np.full((*drawn.shape, max(map(len, groups))), np.nan)
    for index, group in enumerate(groups):
        chosen = drawn == index
        samples[chosen, : len(group)] = group[
            rng.integers(len(group), size=(chosen.sum(), len(group)))
        ]
    if iqm:
        estimate = _interquartile_mean(np.concatenate(groups)[None])[0]
        resampled = _interquartile_mean(samples.reshape(RESAMPLES, -1))
    else:
        estimate = np.mean([group.mean() for group in groups])
        resampled = np.nanmean(samples, axis=2).mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(estimate), float(low), float(high)


def _interquartile_mean(rows: np.ndarray) -> np.ndarray:
    """Mean of the middle half of each row (rows, values), whose NaNs do not count."""
    if not np.isnan(rows).any():
        return trim_mean(rows, 0.25, axis=1)
    return np.array([trim_mean(row[~np.isnan(row)], 0.25) for row in rows])


def with_best(records: pd.DataFrame) -> pd.DataFrame:
    """Adds `best`: the largest return among the attempts 1..n of a unit (the protocol of arXiv
    2305.16554).
    """
    ordered = records.sort_values("trajectories", kind="stable")
    return ordered.assign(
        best=ordered.groupby(["agent", "task", "condition", *UNIT])["return"].cummax()
    )


def summarise(records: pd.DataFrame) -> pd.DataFrame:
    """Last-trajectory return, best of n, and how the search for a goal went, by agent, task,
    condition and n.

    A goal is found by the first attempt that earns half of the best return in the data of its task
    (`records.best_return`; without it the share of units that have found theirs is NaN). `again` is
    the share of what the n-th attempts of those that still search would have found, that they had
    missed before (`agentic_transformer.evaluation.search_metrics`; NaN where none is known).

    Returns:
        Columns agent, task, condition, trajectories, context_steps, context_tokens, seeds, units,
        mean, low, high, iqm, iqm_low, iqm_high, best_mean, best_low, best_high, found, found_low,
        found_high, again, again_low, again_high.
    """
    rows = []
    best_return = records.groupby(["task", "task_id"])["best_return"].transform(
        "max"
    )  # a baseline's records may lack it
    for group, table in with_best(records.assign(best_return=best_return)).groupby(
        ["agent", "task", "condition", "trajectories"], sort=False
    ):
        seeds = table["seed"]
        found = (
            (table["best"] >= FOUND * table["best_return"])
            .where(table["best_return"].notna())
            .astype(float)
        )
        again = table[table["again"].notna()]
        figures = (
            *interval(table["return"], seeds),
            *interval(table["return"], seeds, iqm=True),
            *interval(table["best"], seeds),
            *(interval(found, seeds) if found.notna().all() else [np.nan] * 3),
            *(interval(again["again"], again["seed"]) if len(again) else [np.nan] * 3),
        )
        context = table["context_steps"].iloc[0], table["context_tokens"].iloc[0]
        rows.append((*group, *context, seeds.nunique(), len(table), *figures))
    names = [
        "agent", "task", "condition", "trajectories", "context_steps", "context_tokens", "seeds", "units", "mean", "low", "high",
        "iqm", "iqm_low", "iqm_high", "best_mean", "best_low", "best_high", "found", "found_low", "found_high",
        "again", "again_low", "again_high",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def compare(records: pd.DataFrame) -> pd.DataFrame:
    """How much more the own context earns than each other condition, paired by unit.

    Controls are of the same agent; a condition of `BASELINES` is another agent, and each such agent
    a comparison of its own.

    Returns:
        Columns agent, task, against, baseline (the agent compared with), trajectories, seeds,
        units, difference, low, high, and improvement, improvement_low, improvement_high: the
        probability that the own context earns more (ties count half).
    """
    rows = []
    own = records[records["condition"] == "own"]
    for (agent, task, number), mine in own.groupby(["agent", "task", "trajectories"]):
        there = records[
            (records["task"] == task)
            & (records["trajectories"] == number)
            & (records["condition"] != "own")
        ]
        controls = there[(there["agent"] == agent) | there["condition"].isin(BASELINES)]
        for (baseline, condition), theirs in controls.groupby(["agent", "condition"]):
            pairs = mine.merge(theirs, on=UNIT, suffixes=("", "_other"), validate="one_to_one")
            if len(pairs):
                difference = pairs["return"] - pairs["return_other"]
                figures = (
                    *interval(difference, pairs["seed"]),
                    *interval((np.sign(difference) + 1) / 2, pairs["seed"]),
                )
                rows.append(
                    (
                        agent,
                        task,
                        condition,
                        baseline,
                        number,
                        pairs["seed"].nunique(),
                        len(pairs),
                        *figures,
                    )
                )
    names = [
        "agent", "task", "against", "baseline", "trajectories", "seeds", "units", "difference", "low", "high",
        "improvement", "improvement_low", "improvement_high",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=names)
