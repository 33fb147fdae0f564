"""Prints the tables of a suite and writes them as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from agentic_transformer.run_files import write_whole


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
    table = pd.DataFrame(rows).round(3)
    write_whole(path, table.to_csv(index=False))  # a part of a suite may be ended while it writes
    return table
