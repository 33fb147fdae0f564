"""Chooses the published returns that may stand beside ours in a figure."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ANCHORS = Path(__file__).parents[1] / "results" / "anchors.csv"
"""Published returns, each with its source, protocol and unit."""

RAW = "raw return"
"""The unit of our records: the plain sum of an episode's rewards."""


def read_anchors() -> pd.DataFrame:
    """Returns the published returns of all tasks; `task` is empty where it is none of ours."""
    return pd.read_csv(ANCHORS, dtype={"arxiv": str})


def choose_anchors(
    summary: pd.DataFrame, published: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """Chooses published returns of the same tasks, in the same unit, over as many steps as ours.

    Args:
        summary: result of `agentic_transformer.evaluation.statistics.summarize`.
        published: all published returns, see `read_anchors`.

    Returns:
        The rows that may be drawn, and a line on each reason why others may not.
    """
    chosen, reasons = [], []
    for task, ours in summary.groupby("task", sort=False):
        rows = published[published["task"] == task]
        raw = rows[rows["unit"] == RAW]
        lengths = ours["episode_steps"].unique()
        if rows.empty:
            reasons.append(f"{task}: no published return is listed in {ANCHORS.name}")
        if units := sorted(set(rows["unit"]) - {RAW}):
            count = len(rows) - len(raw)
            reasons.append(f"{task}: {count} have another unit than ours ({', '.join(units)})")
        if raw.empty:
            continue
        if pd.isna(lengths).any():
            reasons.append(f"{task}: records of an earlier version do not tell an episode's steps")
        elif len(lengths) > 1:
            both = " and ".join(f"{steps:g}" for steps in sorted(lengths))
            reasons.append(f"{task}: ours are of episodes of {both} steps")
        else:
            agree = raw["steps"] == lengths[0]
            chosen.append(raw[agree])
            if not agree.all():
                theirs = " or ".join(f"{steps:g}" for steps in sorted(set(raw["steps"][~agree])))
                reasons.append(
                    f"{task}: {(~agree).sum()} are of episodes of {theirs} steps, "
                    f"ours have {lengths[0]:g}"
                )
    empty = published.iloc[:0]
    return pd.concat([empty, *chosen]), [f"no anchor, {reason}" for reason in reasons]


def anchor_label(anchor: pd.Series) -> str:
    """Returns the label of a published return: who, on which data, where, how much."""
    source = f"arXiv {anchor['arxiv']}" if isinstance(anchor["arxiv"], str) else anchor["source"]
    return f"{anchor['method']} ({anchor['data']}), {source}: {anchor['return']:g}"
