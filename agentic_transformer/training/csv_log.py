"""Writes a table row by row, in order of training steps, so that a resumed run goes on with it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TextIO

from datasets.new_file import named_errors


class CsvLog:
    """Writes the rows of a CSV, each with a `step`; the file begins with its first row."""

    def __init__(self, path: Path, from_step: int = 0) -> None:
        """Reads what is there.

        Args:
            path: path of the CSV.
            from_step: step from which a resumed run goes on. Later rows are dropped: their steps
                will be trained again.
        """
        self._path = path
        self._file: TextIO | None = None
        self._writer: csv.DictWriter | None = None
        self.kept = _rows_until(path, from_step)
        partial = path.with_suffix(".part")
        if self.kept:
            self._open(partial, list(self.kept[0]))
            for row in self.kept:
                self.append(row)
            # Only now: a kill before this line leaves the old file as it was.
            partial.replace(path)
        else:
            path.unlink(missing_ok=True)

    def append(self, *rows: dict[str, object]) -> None:
        """Adds the rows of a step. Columns that the first row of the file lacks are left out."""
        with named_errors(self._path):
            if self._writer is None:
                self._open(self._path, list(rows[0]))
            self._writer.writerows(rows)
            # Only here, so that a kill leaves all rows of a step or none.
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file:
            with named_errors(self._path):
                self._file.close()

    def _open(self, path: Path, columns: list[str]) -> None:
        self._file = path.open("w", newline="")
        # The first row decides the columns, and an earlier version may have written fewer.
        self._writer = csv.DictWriter(self._file, columns, extrasaction="ignore")
        self._writer.writeheader()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    """Reads the rows up to a step."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        # A row that a kill cut short lacks values. Its step lies beyond the last checkpoint, so it
        # will be trained again.
        return [
            row
            for row in csv.DictReader(file)
            if None not in row.values() and int(row["step"]) <= step
        ]
