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
        table = pd.DataFrame(
            [{name: _rounded(value) for name, value in row.items()} for row in rows]
        )
        table.to_csv(path, index=False)
        print(f"\n{path.stem.lstrip('.')}\n{table.to_string(index=False)}", flush=True)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
