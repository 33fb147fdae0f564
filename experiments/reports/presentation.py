"""What people look at, from the files of runs alone; no environment or model is touched, nor jax or
MuJoCo imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agentic_transformer.errors import LINE_WIDTH as WIDTH
from agentic_transformer.evaluation import statistics
from agentic_transformer.settings import shell_words as pasteable
from experiments.cli.evaluation_folder import EVALUATION, RECORDS, asked_for, has_records
from experiments.cli.run_folder import CONFIG, STATUS, status
from experiments.reports.paper import beside_paper, paper_text

TABLES = ("summary.csv", "comparisons.csv", "paper_table.csv")
FIGURES = (
    "return_vs_context.png",
    "agents.png",
    "return_vs_tokens.png",
    "training.png",
    "attempts.png",
)
DERIVED = (*TABLES, *FIGURES)
"""What `present` makes of records, and removes where it makes it no more."""

NOT_OF_THE_AGENT = ("run", "resume", "seed", "eval", "mesh", "baseline")
"""Settings in which runs of one agent may differ."""

ACTING = ("target", "temperature", "noise")
"""Evaluation settings in which they may not: what the agent is asked for, and how it draws its
actions."""


def present(runs: Sequence[Path], out: Path) -> None:
    """Writes the tables and figures of some runs, together, and prints the table and where things
    are.

    A figure that cannot be drawn is one line that says why: tables come first, and nothing keeps
    them back.

    Args:
        runs: run folders, each with a `records.csv`.
        out: folder for `summary.csv`, `comparisons.csv`, `return_vs_context.png`, and where there
            is what they show `agents.png`, `return_vs_tokens.png`, `training.png`, `attempts.png`,
            `paper_table.csv`; and for `records.csv`, joined, unless it is the folder of the one
            run.

    Raises:
        ValueError: a run has no records, or records that cannot be read together, or they are to be
            written over those of another run or evaluation; nothing is written then.
    """
    elsewhere = [out.resolve()] != [run.resolve() for run in runs]
    if elsewhere and any((out / name).exists() for name in ("checkpoints", EVALUATION)):
        raise ValueError(
            f"out={out} is the folder of a run or an evaluation, whose records.csv would be lost; name another"
        )
    tables = [statistics.read_records(_records_of(run)) for run in runs]
    names = _names(runs, tables)
    records = statistics.join(
        [_renamed(table, name) for table, name in zip(tables, names, strict=True)]
    )
    summary, comparisons = statistics.summarise(records), statistics.compare(records)
    written = {"summary": summary, "comparisons": comparisons} | (
        {"records": records} if elsewhere else {}
    )
    paper = beside_paper(summary)
    if len(paper):
        written["paper_table"] = paper
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be a folder: {error.strerror}") from None
    for name in DERIVED:
        (out / name).unlink(missing_ok=True)
    for name, table in written.items():
        table.to_csv(out / f"{name}.csv", index=False)
    print(table_text(summary, comparisons), flush=True)
    if len(paper):
        print(paper_text(paper), flush=True)
    drawn = _draw(runs, names, [table["task"].iloc[0] for table in tables], records, summary, out)
    print(
        "\n".join(str(out / name) for name in [*(f"{name}.csv" for name in written), *drawn]),
        flush=True,
    )


def picture(path: Path, draw: Callable[[Path], object]) -> bool:
    """Draws a picture in place of an earlier one; says in one line why where that fails, and never
    raises an error.

    Args:
        path: of the picture.
        draw: writes it to the path that it is given.

    Returns:
        whether the picture is there.
    """
    try:
        path.unlink(missing_ok=True)
        draw(path)
    except Exception as error:  # whatever it is, it must not end what is to be shown
        with suppress(OSError):
            path.unlink(missing_ok=True)
        print(
            f"no {path}: {type(error).__name__}: {' '.join(str(error).split())}"[:WIDTH], flush=True
        )
        return False
    return True


def _draw(
    runs: Sequence[Path],
    names: Sequence[str],
    tasks: Sequence[str],
    records: pd.DataFrame,
    summary: pd.DataFrame,
    out: Path,
) -> list[str]:
    """Draws what the runs have to show; the names of the figures."""

    def figures() -> (
        ModuleType
    ):  # only now: where matplotlib finds no place for its files, a figure fails, not a table
        from experiments.reports import figures

        return figures

    def logs() -> list[tuple[str, str, pd.DataFrame]]:
        return [(names[i], tasks[i], pd.read_csv(runs[i] / "metrics.csv")) for i in logged]

    trained = int(records["trained_trajectories"].max())
    several = summary.loc[summary["condition"] == "own", "agent"].nunique() > 1
    logged = [i for i, run in enumerate(runs) if (run / "metrics.csv").exists()]
    rollouts = next((run / "rollouts.npz" for run in runs if (run / "rollouts.npz").exists()), None)
    shown = reported(summary["trajectories"])
    wanted = {
        "return_vs_context.png": (
            True,
            lambda path: figures().return_vs_context(summary, trained, path),
        ),
        "agents.png": (several, lambda path: figures().agents(summary, path)),
        "return_vs_tokens.png": (
            (summary["context_tokens"] > 0).any(),
            lambda path: figures().return_vs_tokens(summary, trained, path),
        ),
        "training.png": (logged, lambda path: figures().training_curves(logs(), path)),
        "attempts.png": (rollouts, lambda path: figures().attempts(rollouts, shown, path)),
    }
    return [name for name, (exists, draw) in wanted.items() if exists and picture(out / name, draw)]


def reported(trajectories: pd.Series) -> list[int]:
    """The numbers of trajectories that the table and the picture of attempts show: powers of two,
    and the largest.
    """
    present = sorted(int(n) for n in trajectories.unique())
    return [n for n in present if n & (n - 1) == 0 or n == present[-1]]


def table_text(summary: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """The last trajectory's return by condition and number of trajectories, and the paired
    differences at the longest context.
    """
    blocks = []
    for task, rows in summary.groupby("task", sort=False):
        rows = rows[rows["trajectories"].isin(reported(rows["trajectories"]))].sort_values(
            "trajectories", kind="stable"
        )
        cells = [
            f"{m:.2f} [{low:.2f}, {high:.2f}]"
            for m, low, high in zip(rows["mean"], rows["low"], rows["high"], strict=True)
        ]
        rows = rows.assign(
            cell=cells,
            who=rows["agent"] + " " + rows["condition"],
            n=[f"n={n}" for n in rows["trajectories"]],
        )
        table = rows.pivot(index="who", columns="n", values="cell").fillna("")
        table = table.loc[rows["who"].unique(), rows["n"].unique()].rename_axis(
            index=None, columns=None
        )
        blocks.append(
            f"{task}: return of the n-th trajectory, mean [95% interval]\n{table.to_string()}"
        )
        own = rows[rows["condition"] == "own"]
        for agent, curve in own.groupby("agent", sort=False):
            first, last = curve.iloc[0], curve.iloc[-1]
            blocks.append(
                f"{agent}: own at n={last['trajectories']} is {last['mean'] / first['mean']:.1f} times own at n=1"
            )
    for row in comparisons[
        comparisons["trajectories"] == comparisons["trajectories"].max()
    ].itertuples():
        verdict = "above 0" if row.low > 0 else "below 0" if row.high < 0 else "0 not excluded"
        said = f"{row.difference:+.2f} [{row.low:.2f}, {row.high:.2f}], {verdict}"
        blocks.append(
            f"{row.task}, {row.agent}, n={row.trajectories}: own - {row.against} = {said}"
        )
    return "\n".join(blocks)


def _names(runs: Sequence[Path], tables: Sequence[pd.DataFrame]) -> list[str]:
    """A name for each run's agent; where agents of one name differ in settings on one task (a
    sweep's), those are added to it.
    """
    kinds = [tuple(table[["agent", "task"]].iloc[0]) for table in tables]
    settings = [_flat(_config_of(run)) for run in runs]
    names = []
    for kind, own in zip(kinds, settings, strict=True):
        alike = [other for other, same in zip(settings, kinds, strict=True) if same == kind]
        differing = [
            f"{key}={own.get(key)}"
            for key in sorted({key for config in alike for key in config})
            if len({str(config.get(key)) for config in alike}) > 1
        ]
        names.append(" ".join([kind[0], *differing]))
    return names


def _renamed(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A run's records under the name of its agent; those of several agents, told apart when they
    were joined, keep theirs.
    """
    return table.assign(agent=name) if table["agent"].nunique() == 1 else table


def _config_of(run: Path) -> dict[str, Any]:
    """A run's settings that make its agent and how it acted; empty where a run has no
    `config.yaml`, only records.
    """
    config = _settings(run)
    evaluated = (
        asked_for(run) or _settings(run / "evaluate") or config
    )  # the second: of an earlier version
    acted = {key: value for key, value in evaluated.get("eval", {}).items() if key in ACTING}
    agent = {key: value for key, value in config.items() if key not in NOT_OF_THE_AGENT}
    return agent | {"checkpoint": evaluated.get("checkpoint", "newest"), "eval": acted}


def _settings(folder: Path) -> dict[str, Any]:
    """The settings that a folder's `config.yaml` holds; empty where there is none.

    Raises:
        ValueError: it holds something else.
    """
    path = folder / CONFIG
    try:
        settings = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}"[:WIDTH]) from None
    if not isinstance(settings, dict) or not isinstance(settings.get("eval", {}), dict):
        raise ValueError(f"{path} does not hold settings")
    return settings


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    flat = {}
    for key, value in config.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def runs_within(folder: Path) -> list[Path]:
    """A run itself; of a sweep its jobs, all of which must have been evaluated, whatever was joined
    in its folder before.
    """
    jobs = sorted(path.parent for path in folder.glob(f"*/{STATUS}"))
    is_sweep = jobs and not (folder / CONFIG).exists()
    if has_records(folder) and not is_sweep:
        return [folder]
    if results := status(folder).get("results"):  # of a job that evaluated a run
        return [Path(results)]
    return [run for job in jobs for run in runs_within(job)] or [folder]


def _records_of(run: Path) -> Path:
    for name in RECORDS:
        if (run / name).exists():
            return run / name
    command = f"python -m experiments.evaluate {pasteable({'run': str(run)})}"
    raise ValueError(f"no records in {run}; evaluate it first: {command}")
