"""Tabulates the jobs of a sweep side by side, from their files alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agentic_transformer.errors import nearest, raise_config_error
from agentic_transformer.evaluation.results_folder import find_records, read_command
from agentic_transformer.evaluation.statistics import last_returns
from agentic_transformer.run_files import METRICS
from agentic_transformer.settings import shell_words
from experiments.cli.folders import OVERRIDES, is_begun_sweep, jobs, results_of
from experiments.cli.overrides import values_by_key
from experiments.cli.run_folder import read_overrides
from experiments.cli.run_status import read_status


def sweep_table(sweep: Path) -> pd.DataFrame:
    """Returns a row for each job: its overrides, its state, its last metrics and its returns.

    Raises:
        UserError: the folder is not that of a sweep, or no job of it has begun.
    """
    if not sweep.is_dir():
        beside = [path.name for path in sorted(sweep.parent.glob("*/")) if is_begun_sweep(path)]
        meant = nearest(sweep.name, beside)
        raise_config_error(
            f"sweep={sweep}: no such folder",
            "the folder of a sweep, which -m makes",
            shell_words({"sweep": str(sweep.parent / meant)}) if meant else None,
        )
    if not is_begun_sweep(sweep):
        within = [path for path in sorted(sweep.glob("*/")) if is_begun_sweep(path)]
        raise_config_error(
            f"sweep={sweep}: no jobs of a sweep are there",
            "the folder of a sweep, which -m makes",
            shell_words({"sweep": str(within[0])}) if within else None,
        )
    return pd.DataFrame(map(_row, jobs(sweep)))


def job_results(sweep: Path) -> list[Path]:
    """Returns the folders of a sweep's jobs, or of what they evaluated, each once."""
    return list(dict.fromkeys(path for job in jobs(sweep) for path in results_of(job)))


def _row(job: Path) -> dict[str, Any]:
    """Returns what a job's files tell so far.

    The columns of a job with several agents or evaluated runs start with their names.
    """
    state = read_status(job)
    row = {"job": job.name, "state": state.get("state")}
    row |= {key: value for key, value in overrides_of(job).items() if key not in ("run", "resume")}
    for path in sorted(job.rglob(METRICS)):
        prefix = "" if path.parent == job else f"{path.parent.name} "
        row |= {f"{prefix}{name}": value for name, value in _last_metrics(path).items()}
    found = results_of(job)
    for results in found:
        # Results may lie in a folder below that of their run.
        run = Path(read_command(results).get("run", results))
        prefix = "" if len(found) == 1 else f"{run.name} "
        row |= {f"{prefix}{name}": value for name, value in _last_returns(results).items()}
    return row


def overrides_of(job: Path) -> dict[str, str]:
    """Returns the overrides of a job by setting; says so in one line if they cannot be read."""
    try:
        return values_by_key(read_overrides(job))
    except (OSError, HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        print(f"{job / OVERRIDES} cannot be read: {str(error).splitlines()[0]}", file=sys.stderr)
        return {}


def _last_metrics(path: Path) -> dict[str, float]:
    """Returns the last known numbers of a `metrics.csv`, which is empty until a row is due."""
    columns = ["step", "loss", "seconds"]
    if not path.stat().st_size or (rows := _read(path, columns)) is None:
        return {}
    return {name: rows[name].dropna().iloc[-1] for name in columns if rows[name].notna().any()}


def _last_returns(results: Path) -> dict[str, float]:
    """Returns the mean return of each condition at its largest number of trajectories."""
    if not results.is_dir():
        print(f"{results} is left out: no such folder", file=sys.stderr)
    path = find_records(results)
    if path is None or (records := _read(path, ["trajectories", "return"], "condition")) is None:
        return {}
    means = last_returns(records)
    return {f"return {condition} n={n}": mean for (condition, n), mean in means.items()}


def _read(path: Path, numbers: list[str], *texts: str) -> pd.DataFrame | None:
    """Reads a table with columns of numbers and columns of text.

    If it cannot, one line says why, and None is returned.
    """
    try:
        rows = pd.read_csv(path)
        columns = rows[[*texts, *numbers]].assign(**rows[numbers].apply(pd.to_numeric))
    except (OSError, ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        print(f"{path} is left out: {' '.join(str(error).split())}", file=sys.stderr)
        return None
    if rows.empty:
        print(f"{path} is left out: it holds only a header", file=sys.stderr)
        return None
    return columns
