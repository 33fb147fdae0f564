"""Summarizes records by means with 95% confidence intervals.

This module knows nothing of environments or models.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

from agentic_transformer.evaluation.records import BASELINES, UNIT

RESAMPLES = 2000
"""Bootstrap samples of an interval."""

FOUND_SHARE = 0.5
"""An attempt has found the goal if it earns this share of the best return in its task's data."""

SUMMARY_COLUMNS = [
    *("agent", "task", "condition", "trajectories", "context_steps", "context_tokens"),
    "episode_steps",
    *("seeds", "units"),
    *("mean", "low", "high"),
    *("iqm", "iqm_low", "iqm_high"),
    *("best_mean", "best_low", "best_high"),
    *("found", "found_low", "found_high"),
    *("repeat_miss_rate", "repeat_miss_rate_low", "repeat_miss_rate_high", "repeat_miss_units"),
    *("action_entropy", "action_entropy_low", "action_entropy_high"),
    *("first_action_entropy", "first_action_entropy_low", "first_action_entropy_high"),
    "best_return",
]

COMPARISON_COLUMNS = [
    *("agent", "task", "against", "baseline", "trajectories", "seeds", "units"),
    *("difference", "low", "high"),
    *("improvement", "improvement_low", "improvement_high"),
]


def interval(
    values: pd.Series, seeds: pd.Series, *, iqm: bool = False
) -> tuple[float, float, float]:
    """Returns a mean and its 95% bootstrap interval.

    The mean is over seeds, of the mean over each seed's units. The bootstrap has two stages,
    because the units of a seed share one trained model: it draws seeds with replacement, then units
    within each of them. With one seed it is the plain percentile bootstrap over units, and says
    nothing about other seeds.

    Args:
        values: one per unit.
        seeds: the seed of each unit.
        iqm: whether to take the interquartile mean of all units instead, which a few extreme units
            do not move (arXiv 2108.13264).

    Returns:
        Mean, lower end and upper end.
    """
    rng = np.random.default_rng(0)
    by_seed = [group.to_numpy(np.float64) for _, group in values.groupby(seeds.to_numpy())]
    # Stage 1: (samples, seeds) indices of seeds.
    drawn = rng.integers(len(by_seed), size=(RESAMPLES, len(by_seed)))
    # Stage 2: (samples, seeds, units), filled up with NaN where a seed has fewer units.
    samples = np.full((*drawn.shape, max(map(len, by_seed))), np.nan)
    for index, units in enumerate(by_seed):
        chosen = drawn == index
        samples[chosen, : len(units)] = units[
            rng.integers(len(units), size=(chosen.sum(), len(units)))
        ]
    if iqm:
        estimate = _interquartile_mean(np.concatenate(by_seed)[None])[0]
        resampled = _interquartile_mean(samples.reshape(RESAMPLES, -1))
    else:
        estimate = np.mean([units.mean() for units in by_seed])
        resampled = np.nanmean(samples, axis=2).mean(axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(estimate), float(low), float(high)


def _interquartile_mean(rows: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half of each row (rows, values); NaNs do not count."""
    if not np.isnan(rows).any():
        return trim_mean(rows, 0.25, axis=1)
    return np.array([trim_mean(row[~np.isnan(row)], 0.25) for row in rows])


def _interval_of_known(values: pd.Series, seeds: pd.Series) -> tuple[float, float, float]:
    """Returns the interval of the values that are not NaN; NaNs if there are none."""
    known = values.notna()
    return interval(values[known], seeds[known]) if known.any() else (np.nan,) * 3


def with_best(records: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `best`: the largest return among the attempts 1..n of a unit.

    This is the protocol of arXiv 2305.16554.
    """
    ordered = records.sort_values("trajectories", kind="stable")
    return ordered.assign(
        best=ordered.groupby(["agent", "task", "condition", *UNIT])["return"].cummax()
    )


def summarize(records: pd.DataFrame) -> pd.DataFrame:
    """Summarizes returns and search for each agent, task, condition and n (`trajectories`).

    Returns:
        The columns of `SUMMARY_COLUMNS`, each figure with the ends of its interval:
        mean and iqm (interquartile mean) of the n-th trajectory's return;
        best_mean, of the best return among the attempts 1..n;
        found, the share of units whose first n attempts earned `FOUND_SHARE` of the best return in
        the data of their task (NaN if `best_return` is not known);
        repeat_miss_rate, the share of what the n-th attempts tried that had been missed before
        (`agentic_transformer.evaluation.search_metrics`; NaN if it is not known), and
        repeat_miss_units, the units in which it is known: those that have missed before;
        action_entropy and first_action_entropy, of the n-th attempt and of its first action;
        best_return, the mean of the best returns in the data (NaN if one is not known).
        Condition `retrieval` is left out: its returns depend on the distance too.
    """
    records = records[records["condition"] != "retrieval"]
    # The records of a baseline may lack the best return of a task that other records tell.
    best_return = records.groupby(["task", "task_id"])["best_return"].transform("max")
    rows = []
    for group, table in with_best(records.assign(best_return=best_return)).groupby(
        ["agent", "task", "condition", "trajectories"], sort=False
    ):
        seeds = table["seed"]
        # A comparison with NaN is False; where the best return is not known, nothing is known.
        found = (table["best"] >= FOUND_SHARE * table["best_return"]).astype(float)
        if table["best_return"].isna().any():
            found[:] = np.nan
        rows.append(
            (
                *group,
                table["context_steps"].iloc[0],
                table["context_tokens"].iloc[0],
                table["episode_steps"].iloc[0],
                seeds.nunique(),
                len(table),
                *interval(table["return"], seeds),
                *interval(table["return"], seeds, iqm=True),
                *interval(table["best"], seeds),
                *_interval_of_known(found, seeds),
                *_interval_of_known(table["repeat_miss_rate"], seeds),
                table["repeat_miss_rate"].notna().sum(),
                *_interval_of_known(table["action_entropy"], seeds),
                *_interval_of_known(table["first_action_entropy"], seeds),
                table["best_return"].mean(skipna=False),
            )
        )
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def compare(records: pd.DataFrame) -> pd.DataFrame:
    """Compares the return with the own context to that of each other condition, unit by unit.

    Controls are conditions of the same agent. A condition of `BASELINES` is another agent, and each
    such agent is a comparison of its own.

    Returns:
        The columns of `COMPARISON_COLUMNS`: against (the other condition), baseline (the agent
        compared with), difference (own minus other) with its interval, and improvement, the
        probability that the own context earns more (ties count half), with its interval.
    """
    rows = []
    own = records[records["condition"] == "own"]
    for (agent, task, number), ours in own.groupby(["agent", "task", "trajectories"]):
        others = records[
            (records["task"] == task)
            & (records["trajectories"] == number)
            & ~records["condition"].isin(["own", "retrieval"])
        ]
        controls = others[(others["agent"] == agent) | others["condition"].isin(BASELINES)]
        for (baseline, condition), theirs in controls.groupby(["agent", "condition"]):
            pairs = ours.merge(theirs, on=UNIT, suffixes=("", "_other"), validate="one_to_one")
            if pairs.empty:
                continue
            seeds, difference = pairs["seed"], pairs["return"] - pairs["return_other"]
            improved = (np.sign(difference) + 1) / 2
            rows.append(
                (
                    *(agent, task, condition, baseline, number, seeds.nunique(), len(pairs)),
                    *interval(difference, seeds),
                    *interval(improved, seeds),
                )
            )
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
