"""Summarizes records by means with 95% confidence intervals.

This module knows nothing of environments or models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit  # scipy.stats would take over half a second to import

from agentic_transformer.config import BASELINES
from agentic_transformer.contexts.chains import near_best
from agentic_transformer.evaluation.records import UNIT

RESAMPLES = 2000
"""Bootstrap samples of an interval over units."""

FOUND_SHARE = 0.5
"""An attempt has found the goal if it earns this share of the best return in its task's data, as
`agentic_transformer.contexts.chains.near_best` counts it."""

_ROUNDING = 1e-12
"""Difference below which two means of numbers from -1 to 1 are the same."""

SUMMARY_COLUMNS = [
    *("agent", "task", "condition", "trajectories", "context_steps", "context_tokens"),
    *("episode_steps", "trained_trajectories"),
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
    values: pd.Series,
    seeds: pd.Series,
    *,
    iqm: bool = False,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float, float]:
    """Returns a mean and its 95% confidence interval.

    The mean is taken over the units of each seed, then over seeds. The units of a seed share one
    trained model, so with k seeds there are k independent observations, however many units there
    are. The interval is Student's with k - 1 degrees of freedom, and its standard error is that of
    the jackknife over seeds:

        error^2 = (k - 1) / k sum_i (m_i - mean(m))^2,  where m_i is the mean without seed i

    For the mean this is the t interval over the means of seeds. (A bootstrap of two to five seeds
    is too narrow: in simulations it covers the mean in 50% of cases with two seeds, in 75% with
    three and in 84% with five.) With one seed it is the percentile bootstrap over units, and says
    nothing about other seeds. It is the bootstrap over all units too if the mean stays the same
    whichever seed is left out: if the means of all seeds are equal, for example. Then Student's
    interval would have no width, and the mean would be certain. Such seeds show no difference, so
    their units count as independent.

    Args:
        values: one per unit.
        seeds: the seed of each unit.
        iqm: whether to take the interquartile mean of all units instead, which a few extreme units
            do not move (arXiv 2108.13264).
        bounds: the smallest and the largest possible mean; the interval is clipped to them.

    Returns:
        Mean, lower end and upper end.
    """
    by_seed = _by_seed(values, seeds)
    mean_of = _interquartile_mean if iqm else _mean_of_means
    mean, without = mean_of(by_seed), _without_each(by_seed, mean_of)
    alike = _are_alike(by_seed, without)
    ends = _bootstrap(by_seed, iqm=iqm) if alike else _jackknife(mean, without)
    low, high = np.clip(ends, *bounds)
    return float(mean), float(low), float(high)


def _by_seed(values: pd.Series, seeds: pd.Series) -> list[np.ndarray]:
    return [group.to_numpy(np.float64) for _, group in values.groupby(seeds.to_numpy())]


def _without_each(
    by_seed: list[np.ndarray], mean_of: Callable[[list[np.ndarray]], float]
) -> list[float]:
    """Returns the means of all seeds but one, for each seed; nothing if there is only one seed."""
    if len(by_seed) == 1:
        return []
    return [mean_of(by_seed[:i] + by_seed[i + 1 :]) for i in range(len(by_seed))]


def _are_alike(by_seed: list[np.ndarray], without: list[float]) -> bool:
    """Returns whether the mean is the same, up to rounding, whichever seed is left out."""
    largest = max(np.abs(units).max() for units in by_seed)
    return not without or np.ptp(without) <= _ROUNDING * largest


def _mean_of_means(by_seed: list[np.ndarray]) -> float:
    return np.mean([units.mean() for units in by_seed])


def _interquartile_mean(by_seed: list[np.ndarray]) -> float:
    return _mean_of_middle(np.concatenate(by_seed))


def _mean_of_middle(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the last axis without its smallest and its largest quarter.

    A quarter that is no whole number is rounded down, as `scipy.stats.trim_mean` does.
    """
    cut = values.shape[-1] // 4
    last = values.shape[-1] - cut
    return np.partition(values, (cut, last - 1))[..., cut:last].mean(axis=-1)


def _jackknife(mean: float, without: list[float]) -> tuple[float, float]:
    """Returns the ends of the interval over two seeds or more, see `interval`."""
    seeds = len(without)
    half = stdtrit(seeds - 1, 0.975) * np.sqrt((seeds - 1) * np.var(without))
    return mean - half, mean + half


def _bootstrap(by_seed: list[np.ndarray], *, iqm: bool) -> np.ndarray:
    """Returns the ends of the interval over the units of all seeds together."""
    units = np.concatenate(by_seed)
    rng = np.random.default_rng(0)
    samples = units[rng.integers(len(units), size=(RESAMPLES, len(units)))]
    means = _mean_of_middle(samples) if iqm else samples.mean(axis=1)
    return np.percentile(means, [2.5, 97.5])


def _interval_of_share(shares: pd.Series, seeds: pd.Series) -> tuple[float, float, float]:
    """Returns the mean and interval of the known numbers, from 0 to 1; NaNs if none is known.

    It is Wilson's over all units where `interval` has a bootstrap: with one seed, and where all
    seeds have the same share. A bootstrap of equal units has no width: a share of 1 in every unit
    would be certain.
    """
    known = shares.notna()
    by_seed = _by_seed(shares[known], seeds[known])
    if by_seed and _are_alike(by_seed, _without_each(by_seed, _mean_of_means)):
        return _wilson(np.concatenate(by_seed))
    return _interval_of_known(shares, seeds, bounds=(0.0, 1.0))


def _wilson(shares: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of n numbers from 0 to 1 and Wilson's 95% interval (Wilson 1927).

    Its ends are the means q at which (p - q)^2 = z^2 q (1 - q) / n, where p is the mean of the
    numbers and z is 1.96. A number from 0 to 1 with the mean q has at most the variance q (1 - q),
    which 0 and 1 have. So the interval is too wide, never too narrow, for other numbers.
    """
    mean, spread = shares.mean(), ndtri(0.975) ** 2 / len(shares)  # p, z^2 / n
    middle = mean + spread / 2
    half = np.sqrt(spread * (mean * (1 - mean) + spread / 4))
    low, high = np.clip([middle - half, middle + half] / (1 + spread), 0, 1)
    return float(mean), float(low), float(high)


def _interval_of_known(
    values: pd.Series, seeds: pd.Series, **how: Any
) -> tuple[float, float, float]:
    """Returns the mean and interval of the values that are not NaN; NaNs if there are none."""
    known = values.notna()
    return interval(values[known], seeds[known], **how) if known.any() else (np.nan,) * 3


def with_best(records: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `best`: the largest return among the attempts 1..n of a unit.

    This is the protocol of arXiv 2305.16554. Where an attempt before the n-th was not made, as in
    condition `distractors`, `best` is NaN, since it would be the best of fewer attempts.
    """
    ordered = records.sort_values("trajectories", kind="stable")
    units = ordered.groupby(["agent", "task", "condition", *UNIT])
    complete = units.cumcount() + 1 == ordered["trajectories"]
    return ordered.assign(best=units["return"].cummax().where(complete))


def summarize(records: pd.DataFrame) -> pd.DataFrame:
    """Summarizes returns and search for each agent, task, condition and n (`trajectories`).

    Returns:
        The columns of `SUMMARY_COLUMNS`, each figure with the ends of its interval:
        mean and iqm (interquartile mean) of the n-th trajectory's return;
        best_mean, of the best return among the attempts 1..n;
        found, the share of units of which one of the first n attempts earned at least `FOUND_SHARE`
        of the best return in the data of their task (NaN if the best return of a unit is unknown,
        or 0: then nothing was ever earned, and all would have found it);
        repeat_miss_rate, the share of what the n-th attempts tried that had been missed before
        (`agentic_transformer.evaluation.search_metrics`; NaN if it is not known), and
        repeat_miss_units, the number of units in which it is known;
        action_entropy and first_action_entropy, of the n-th attempt and of its first action;
        best_return, the mean of the best returns in the data (NaN if one is not known).
        Condition `retrieval` is left out: its returns depend on the distance too.
    """
    records = records[records["condition"] != "retrieval"]
    # The records of a baseline may lack the best return of a task that other records tell. Known
    # ones stay: agents that were trained on other data have their own.
    largest = records.groupby(["task", "task_id"])["best_return"].transform("max")
    best_return = records["best_return"].fillna(largest)
    rows = []
    for group, table in with_best(records.assign(best_return=best_return)).groupby(
        ["agent", "task", "condition", "trajectories"], sort=False
    ):
        seeds = table["seed"]
        found = (table["best"] >= near_best(FOUND_SHARE, table["best_return"])).astype(float)
        # A comparison with NaN is False. If one unit's best return is unknown, so is the share.
        unknown = table[["best_return", "best"]].isna().any(axis=None)
        if unknown or (table["best_return"] == 0).any():
            found[:] = np.nan
        rows.append(
            (
                *group,
                table["context_steps"].iloc[0],
                table["context_tokens"].iloc[0],
                table["episode_steps"].iloc[0],
                table["trained_trajectories"].max(),
                seeds.nunique(),
                len(table),
                *interval(table["return"], seeds),
                *interval(table["return"], seeds, iqm=True),
                *_interval_of_known(table["best"], seeds),
                *_interval_of_share(found, seeds),
                *_interval_of_share(table["repeat_miss_rate"], seeds),
                table["repeat_miss_rate"].notna().sum(),
                *_interval_of_known(table["action_entropy"], seeds),
                *_interval_of_known(table["first_action_entropy"], seeds),
                table["best_return"].mean(skipna=False),
            )
        )
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def last_returns(records: pd.DataFrame) -> dict[tuple[str, int], float]:
    """Returns the mean return of each condition's last attempt, by condition and n.

    Args:
        records: of one run; the columns condition, trajectories and return are enough.
    """
    longest = records.groupby("condition")["trajectories"].transform("max")
    last = records[records["trajectories"] == longest]
    return last.groupby(["condition", "trajectories"])["return"].mean().to_dict()


def compare(records: pd.DataFrame) -> pd.DataFrame:
    """Compares the return with the own context to that of each other condition, unit by unit.

    Controls are conditions of the same agent. A condition of `BASELINES` is another agent, and each
    such agent is a comparison of its own. Episodes of different length are not compared.

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
            lengths = pairs[["episode_steps", "episode_steps_other"]]
            # Records of earlier versions do not tell the length.
            pairs = pairs[lengths.nunique(axis=1) < 2]
            if pairs.empty:
                continue
            seeds, difference = pairs["seed"], pairs["return"] - pairs["return_other"]
            improved = (np.sign(difference) + 1) / 2
            rows.append(
                (
                    *(agent, task, condition, baseline, number, seeds.nunique(), len(pairs)),
                    *interval(difference, seeds),
                    *_interval_of_share(improved, seeds),
                )
            )
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
