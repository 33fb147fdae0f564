"""Prints the tables of a suite and writes them as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Prints rows as a table, named after the file, and writes them, with three decimals.

    Args:
        path: path of the CSV; nothing is written if there are no rows.
        rows: values by column.
    """
    if rows:
        table = save(path, rows)
        print(f"\n{path.stem.lstrip('.')}\n{table.to_string(index=False)}", flush=True)


def save(path: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Writes rows with three decimals, and returns them as a table.

    Args:
        path: path of the CSV.
        rows: values by column.
    """
    table = pd.DataFrame([{name: _rounded(value) for name, value in row.items()} for row in rows])
    whole = path.with_suffix(
        ".part"
    )  # a process that is ended while it writes leaves the old table
    table.to_csv(whole, index=False)
    whole.replace(path)
    return table


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
