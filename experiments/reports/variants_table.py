"""Tabulates the agents of several runs: seeds are joined, each mean has its interval."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from agentic_transformer.evaluation.records import join, read_records
from agentic_transformer.evaluation.results_folder import find_records
from agentic_transformer.evaluation.statistics import summarize
from experiments.cli.folders import jobs, results_of
from experiments.reports.agent_names import agent_names, with_name
from experiments.reports.condition_looks import NAMES
from experiments.reports.return_table import at_longest, with_intervals
from experiments.reports.sweep_table import overrides_of

JOINED = ("seed", "eval.seed", "run", "resume")
"""Settings in which repetitions differ; no figure has them on its horizontal axis."""

COLUMNS = ["agent", "task", "condition", "trajectories", "seeds", "units", "mean", "low", "high"]


def variants_table(runs: Sequence[Path]) -> pd.DataFrame:
    """Returns a row for each agent, task and condition, at the largest number of trajectories.

    Args:
        runs: folders with records; those without records that can be read are left out.

    Returns:
        The columns of `COLUMNS`. The mean is over the tasks of all seeds, with the ends of its 95%
        interval, see `agentic_transformer.evaluation.statistics.interval`.

    Raises:
        ValueError: the records cannot be joined, or a run's settings cannot be read.
    """
    tables = {run: table for run in runs if (table := readable_records(run)) is not None}
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return _last_returns(list(tables.values()), agent_names(list(tables), list(tables.values())))


def _last_returns(tables: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    """Returns the table of `variants_table` from records and a name for each run's agent."""
    records = join([with_name(table, name) for table, name in zip(tables, names, strict=True)])
    return at_longest(summarize(records))[COLUMNS].reset_index(drop=True)


def readable_records(run: Path) -> pd.DataFrame | None:
    """Returns a run's records, or None; the table of the jobs says what is wrong with a file."""
    try:
        path = find_records(run)
        return None if path is None else read_records(path)
    except (OSError, ValueError):
        return None


def returns_by_setting(sweep: Path) -> tuple[str, pd.DataFrame] | None:
    """Returns a numeric setting that a sweep varies, and the returns at each of its values.

    If there are several, it is the one with the most values. Seeds are joined.

    Args:
        sweep: folder of a sweep. Jobs that are not evaluated are left out.

    Returns:
        The setting, and a table with the columns of `COLUMNS` and `value`; None if no numeric
        setting varies among the evaluated jobs.

    Raises:
        ValueError: see `variants_table`.
    """
    given, tables = {}, {}
    for job in jobs(sweep):
        for results in results_of(job):
            if (table := readable_records(results)) is not None:
                given[results], tables[results] = overrides_of(job), table
    keys = {key for words in given.values() for key in words} - set(JOINED)
    values = {key: {words.get(key) for words in given.values()} for key in sorted(keys)}
    numeric = [
        key for key, found in values.items() if len(found) > 1 and all(map(_is_number, found))
    ]
    if not numeric:
        return None
    setting = max(numeric, key=lambda key: len(values[key]))
    at = {results: float(words[setting]) for results, words in given.items()}
    # All are named together: how agents differ is not to depend on which jobs are there.
    names = agent_names(list(at), list(tables.values()), without=setting)
    named = dict(zip(at, names, strict=True))
    points = []
    for value in sorted(set(at.values())):
        runs = [results for results in at if at[results] == value]
        table = _last_returns([tables[run] for run in runs], [named[run] for run in runs])
        points.append(table.assign(value=value))
    return setting, pd.concat(points, ignore_index=True)


def _is_number(text: str | None) -> bool:
    form = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"  # 1.0.1, as a name may be, is none
    return text is not None and re.fullmatch(form, text, re.I) is not None


def save_tables(table: pd.DataFrame, path: Path) -> list[Path]:
    """Writes a table as CSV, Markdown and LaTeX (with booktabs).

    Args:
        table: result of `variants_table`.
        path: path without its ending.

    Returns:
        The paths.
    """
    cells = in_cells(table)
    written = {
        ".csv": table.to_csv(index=False),
        ".md": markdown(list(cells.columns), cells.to_numpy()),
        ".tex": latex(cells),
    }
    for suffix, text in written.items():
        path.with_suffix(suffix).write_text(text)
    return [path.with_suffix(suffix) for suffix in written]


def in_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each agent and task, and a column of text for each condition."""
    cells = table.assign(
        cell=with_intervals(table),
        column=[
            f"{NAMES[condition]}, n = {n}"
            for condition, n in zip(table["condition"], table["trajectories"], strict=True)
        ],
    )
    index = ["agent", "task", "seeds"]
    wide = cells.pivot(index=index, columns="column", values="cell")
    rows = cells[index].drop_duplicates().apply(tuple, axis=1)
    return wide.loc[list(rows), cells["column"].unique()].fillna("").reset_index()


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def latex(cells: pd.DataFrame) -> str:
    r"""Returns a table of text in LaTeX; it needs \usepackage{booktabs}."""
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(cells.columns)}}}",
        r"\toprule",
        _latex_row(cells.columns),
        r"\midrule",
        *map(_latex_row, cells.astype(str).to_numpy()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(re.sub(r"([&%$#_{}])", r"\\\1", str(cell)) for cell in cells) + r" \\"
