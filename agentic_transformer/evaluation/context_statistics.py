"""Summarizes returns by the window of the context, and by the place of an informative trajectory.

This module knows nothing of environments or models.
"""

from __future__ import annotations

import pandas as pd

from agentic_transformer.config import BASELINES
from agentic_transformer.evaluation.records import UNIT
from agentic_transformer.evaluation.statistics import interval

_OF_WINDOWS = r" (agent\.trajectories|eval\.window)=\S+"
"""Settings in a name that tell agents of several windows apart."""

_OF_EQUAL_TOKENS = r" train\.batch=\S+"
"""Another such setting: the group `window` sets the batch so that each step sees as many tokens."""

_FIGURES = ["seeds", "units", "mean", "low", "high"]


def summarize_windows(records: pd.DataFrame) -> pd.DataFrame:
    """Summarizes the return of the n-th attempt by the window of the context.

    Records without a window are left out. An agent of single trajectories has no context and is
    evaluated with `eval.window=1`, as `window=w1` sets it.

    Args:
        records: of evaluations with several values of `eval.window`.

    Returns:
        Columns agent (its name without settings of windows), task, training ("window": each agent
        was trained with its window; or the number of trajectories that one agent was trained with),
        window, trajectories (n), seeds, units, and the mean with its interval. Agents or trainings
        with one window have no rows.
    """
    rows = records[records["condition"].isin(["own", *BASELINES]) & records["window"].notna()]
    names = rows["agent"].str.replace(_OF_WINDOWS, "", regex=True)
    rows = rows.assign(
        agent=names.str.replace(_OF_EQUAL_TOKENS, "", regex=True),
        window=rows["window"].astype(int),
        training=rows["trained_trajectories"].astype(int).astype(str),
    )
    if rows.duplicated(["agent", "task", "training", "window", "trajectories", *UNIT]).any():
        rows = rows.assign(agent=names)  # agents of several batches, each with several windows
    as_trained = rows[rows["window"] == rows["trained_trajectories"]].assign(training="window")
    both = pd.concat([as_trained, rows], ignore_index=True)
    by_window = ["agent", "task", "training"]
    several = both.groupby(by_window)["window"].transform("nunique") > 1
    return _means(both[several], [*by_window, "window", "trajectories"])


def summarize_retrieval(records: pd.DataFrame) -> pd.DataFrame:
    """Summarizes returns after a context that holds one informative trajectory.

    Returns:
        Columns agent, task, condition, trajectories (n, so that the context holds n-1), distance
        (NaN for `distractors`), seeds, units, and the mean return with its interval. An agent
        without `retrieval` on a task has no rows of it.
    """
    rows = records[records["condition"].isin(["retrieval", "distractors"])]
    retrieves = (rows["condition"] == "retrieval").groupby([rows["agent"], rows["task"]])
    rows = rows[retrieves.transform("any").astype(bool)]
    return _means(rows, ["agent", "task", "condition", "trajectories", "distance"])


def _means(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns the mean return of each group with its interval."""
    figures = [
        (*group, table["seed"].nunique(), len(table), *interval(table["return"], table["seed"]))
        for group, table in rows.groupby(by, sort=True, dropna=False)
    ]
    return pd.DataFrame(figures, columns=[*by, *_FIGURES])
