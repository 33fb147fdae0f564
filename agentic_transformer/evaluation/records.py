"""Reads and joins records: tables with one row per finished trajectory.

The columns say which agent acted (agent, trained_trajectories), on what (task, seed, eval_seed,
task_id, rollout), with which context (condition, trajectories, context_steps, context_tokens), over
how many environment steps (episode_steps), at what cost (encoded_tokens), and what came of it
(return, repeat_miss_rate; best_return is the best in the data of the task). `window` is the largest
context that was allowed, `distance` the place of the informative trajectory in condition
`retrieval`, and action_entropy and first_action_entropy say how certain the agent was, over the
attempt and before its first action. The values of `condition` are explained in
`agentic_transformer.evaluation.rollouts`.

This module knows nothing of environments or models.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agentic_transformer.config import RECORD_CONDITIONS

UNIT = ["seed", "eval_seed", "task_id", "rollout"]
"""Columns of a unit: one hidden task of one seed (and which of its repetitions).

Both seeds, that of the run and that of the evaluation, decide where its attempts start. Conditions
are compared unit by unit.
"""

KEY = ["agent", "task", "condition", *UNIT, "trajectories", "distance"]
"""Columns in which no two records are the same."""

REQUIRED = [
    *("agent", "task", "condition", "seed", "task_id", "trajectories", "context_steps"),
    *("trained_trajectories", "return"),
]
"""Columns that records must have."""

OPTIONAL = {
    "eval_seed": 0,
    "rollout": 0,
    "best_return": np.nan,
    "context_tokens": np.nan,
    "episode_steps": np.nan,
    "repeat_miss_rate": np.nan,
    "window": np.nan,
    "distance": np.nan,
    "action_entropy": np.nan,
    "first_action_entropy": np.nan,
}
"""Columns that records may lack, each with the value that is assumed then."""

_TEXT = ("agent", "task", "condition", "task_id")
"""Columns that may hold text; all others hold numbers."""

_NAMES = ("agent", "baseline", "task")
"""Columns that hold names which users choose."""

RENAMED = {"again": "repeat_miss_rate"}
"""Columns of the version before this one, and their names now."""

_UNREADABLE = (
    pd.errors.ParserError,
    pd.errors.EmptyDataError,
    # of a compressed file
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
)


def read_records(path: Path) -> pd.DataFrame:
    """Reads the records of one run.

    Args:
        path: a `records.csv` (or `.csv.gz`).

    Returns:
        The table, with the values of `OPTIONAL` for columns that the file lacks.

    Raises:
        ValueError: the file is empty or only a header, is cut short, lacks a column, or has an
            unknown condition, text in a column of numbers, or the same row twice.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
        records = read_table(content)
    except (*_UNREADABLE, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from None
    records = _with_new_names(records, path)
    missing = [column for column in REQUIRED if column not in records]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; records need {REQUIRED}")
    if records.empty:
        raise ValueError(f"{path} holds no records, only their header; evaluate the run again")
    records = records.assign(
        **{column: records.get(column, default) for column, default in OPTIONAL.items()}
    )
    _check_values(records, path)
    if not content.endswith(b"\n"):  # 12.5 may have become 12 or 1
        raise ValueError(f"{path} ends in the middle of line {len(records) + 1}: was it cut short?")
    return records


def read_table(content: bytes) -> pd.DataFrame:
    """Reads a table in CSV, of records or of what was computed from them.

    Names are text, also those that pandas takes for a number or for no value, such as 1.5 and NA.

    Raises:
        ValueError: the content is no table, or no text.
    """
    names = pd.read_csv(
        io.BytesIO(content),
        usecols=lambda column: column in _NAMES,
        dtype=str,
        keep_default_na=False,
        na_values=[""],
    )
    return pd.read_csv(io.BytesIO(content)).assign(**names)


def _with_new_names(records: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Renames columns of the version before this one, with one warning line."""
    old = {name: new for name, new in RENAMED.items() if name in records and new not in records}
    if old:
        renamed = ", ".join(f"{name} is {new} now" for name, new in old.items())
        print(f"warning: {path}: the column {renamed}", file=sys.stderr, flush=True)
    return records.rename(columns=old)


def _check_values(records: pd.DataFrame, path: Path) -> None:
    """Raises a ValueError that names the first line of a file with a wrong value."""
    incomplete = records[[*REQUIRED, "eval_seed", "rollout"]].isna().any(axis=1)
    if incomplete.any():
        raise ValueError(f"{path} lacks values in line {_line(incomplete)}: was it cut short?")
    for column in (one for one in (*REQUIRED, *OPTIONAL) if one not in _TEXT):
        if not pd.api.types.is_numeric_dtype(records[column]):
            wrong = pd.to_numeric(records[column], errors="coerce").isna() & records[column].notna()
            value = records.loc[wrong, column].iloc[0]
            raise ValueError(
                f"{path} has {column}={value!r} in line {_line(wrong)}; it must be a number"
            )
    unknown = ~records["condition"].isin(RECORD_CONDITIONS)
    if unknown.any():
        condition = records.loc[unknown, "condition"].iloc[0]
        raise ValueError(
            f"{path} has the unknown condition {condition!r} in line {_line(unknown)}; "
            f"there are {RECORD_CONDITIONS}"
        )
    repeated = records.duplicated(KEY)
    if repeated.any():
        raise ValueError(
            f"{path} holds two rows with the same {KEY}, the second in line {_line(repeated)}"
        )


def _line(rows: pd.Series) -> int:
    """Returns the line of a file, counted from 1 with its header, of the first row that is True."""
    return int(np.argmax(rows)) + 2


def join(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Joins the records of several runs into one table.

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
