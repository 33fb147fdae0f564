"""Tables of a suite: printed and written as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Prints rows as a table, named after the file, and writes them; floats to three decimals.

    Nothing of no rows.
    """
    import pandas as pd

    if rows:
        table = pd.DataFrame(
            [{name: _rounded(value) for name, value in row.items()} for row in rows]
        )
        table.to_csv(path, index=False)
        print(f"\n{path.stem.lstrip('.')}\n{table.to_string(index=False)}", flush=True)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
