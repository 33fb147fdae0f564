"""Makes the tables and figures of runs from their files alone.

Nothing here touches an environment or a model, or imports jax or MuJoCo.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from agentic_transformer.config import BASELINES
from agentic_transformer.config import FIGURE_FORMATS as FORMATS
from agentic_transformer.errors import raise_config_error
from agentic_transformer.evaluation import records as evaluation_records
from agentic_transformer.evaluation.context_statistics import (
    summarize_retrieval,
    summarize_windows,
)
from agentic_transformer.evaluation.results_folder import (
    EVALUATION,
    FIGURES,
    ROLLOUTS,
    TABLES,
    evaluated_step,
    find_records,
    read_command,
)
from agentic_transformer.evaluation.statistics import compare, summarize
from agentic_transformer.find_run import nearest_run
from agentic_transformer.run_files import CHECKPOINTS, CONFIG, LEARNING_CURVE, METRICS
from agentic_transformer.settings import shell_words
from experiments.cli.run_status import saved_step
from experiments.reports.agent_names import agent_names, with_name
from experiments.reports.anchors import choose_anchors, read_anchors
from experiments.reports.paper import beside_paper, paper_text
from experiments.reports.pictures import drawing_failure
from experiments.reports.return_table import reported, table_text


def present(
    runs: Sequence[Path],
    out: Path,
    paper: bool = False,
    anchors: bool = False,
    conditions: Sequence[str] = (),
    formats: Sequence[str] = ("png",),
) -> list[str]:
    """Writes the tables and figures of some runs together, and prints the table and their paths.

    Tables are written first, and the main figure is named first. If a figure cannot be drawn, one
    line says why.

    Args:
        runs: run folders, each with a `records.csv`.
        out: folder for `TABLES` and `FIGURES`, as far as there is something to show. If it is
            another folder than that of the single run, it also gets `records.csv`, joined.
        paper: whether to add the table of the Ring Attention paper.
        anchors: whether published returns are drawn, see `experiments.reports.anchors`.
        conditions: which to show, all if empty; `records.csv` keeps all.
        formats: png, pdf or svg, of the figures.

    Returns:
        What a reader of the tables and figures must know, a line each, also which figures could
        not be drawn and why; it is printed too.

    Raises:
        ValueError: a run has no records, the records cannot be read together or lack all of the
            conditions, or they would overwrite those of another run or evaluation. Then nothing is
            written.
    """
    elsewhere = [out.resolve()] != [run.resolve() for run in runs]
    if elsewhere:
        _check_no_records_are_lost(out)
    tables = [evaluation_records.read_records(_records_of(run)) for run in runs]
    names = agent_names(runs, tables)
    named = [with_name(table, name) for table, name in zip(tables, names, strict=True)]
    records = evaluation_records.join(named)
    notes = [*filter(None, map(_older_step, runs)), *_not_comparable(runs, named)]
    for line in notes:
        print(line, flush=True)
    shown = _chosen(records, conditions)
    summary, comparisons = summarize(shown), compare(shown)
    written = {"summary": summary, "comparisons": comparisons} | (
        {"records": records} if elsewhere else {}
    )
    if paper:
        written["paper_table"] = beside_paper(summary)
    some = {"windows": summarize_windows(shown), "retrieval": summarize_retrieval(shown)}
    written |= {name: table for name, table in some.items() if len(table)}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be a folder: {error.strerror}") from None
    figures = [Path(name).with_suffix(f".{suffix}") for name in FIGURES for suffix in FORMATS]
    for name in (*TABLES, *figures):
        (out / name).unlink(missing_ok=True)
    for name, table in written.items():
        table.to_csv(out / f"{name}.csv", index=False)
    print(table_text(summary, comparisons), flush=True)
    if paper:
        print(paper_text(written["paper_table"]), flush=True)
    published, unfit = choose_anchors(summary, read_anchors()) if anchors else (None, [])
    for line in unfit:
        print(line, flush=True)
    failures = _draw(runs, names, tables, written | {"records": shown}, published, out, formats)
    made = [
        *(name for name, failure in failures.items() if not failure),
        *(f"{name}.csv" for name in written),
    ]
    print("\n".join(str(out / name) for name in made), flush=True)
    return notes + [f"no {name}: {failure}" for name, failure in failures.items() if failure]


def _check_no_records_are_lost(out: Path) -> None:
    """Raises a ValueError if a folder holds records that no earlier plot has written there.

    A plot leaves a `summary.csv` beside its `records.csv`, and neither checkpoints nor settings of
    an evaluation.
    """
    if any((out / name).exists() for name in (CHECKPOINTS, EVALUATION)):
        raise ValueError(
            f"out={out} is the folder of a run or an evaluation, whose records.csv would be lost; "
            "name another"
        )
    path = find_records(out)
    plotted = (out / "summary.csv").exists() and not (out / "records.csv.gz").exists()
    if path and not plotted:
        raise ValueError(
            f"out={out} holds a {path.name} that no plot has made, and that this one would "
            "replace; name another folder"
        )


def _older_step(run: Path) -> str:
    """Says so if a run's records are of its newest checkpoint, and training has gone on since."""
    evaluated, newest = evaluated_step(run), saved_step(run)
    known = evaluated and newest is not None
    if known and read_command(run).get("checkpoint") == "newest" and evaluated != str(newest):
        return (
            f"{run}: its records are of step {evaluated}, training has reached step {newest}. "
            f"python -m experiments.evaluate {shell_words({'run': str(run)})} makes new ones in a "
            "folder that it names"
        )
    return ""


def _not_comparable(runs: Sequence[Path], tables: Sequence[pd.DataFrame]) -> list[str]:
    """Returns a line on each task whose agents had episodes of other lengths, or other tasks.

    Args:
        runs: run folders.
        tables: their records, with the names of their agents.
    """
    agents_of: dict[tuple[str, str], dict[str, list[str]]] = {}
    for run, table in zip(runs, tables, strict=True):
        held_out = read_command(run).get("eval", {}).get("held_out")
        facts = table[["agent", "task", "episode_steps"]].drop_duplicates()
        for agent, task, steps in facts.itertuples(index=False):
            known = {} if pd.isna(steps) else {"episode_steps": f"{steps:g}"}
            known |= {"eval.held_out": held_out} if held_out else {}
            for name, value in known.items():
                agents = agents_of.setdefault((task, name), {}).setdefault(value, [])
                agents += [agent] if agent not in agents else []
    return [
        f"{task}: {name} is "
        + " and ".join(f"{value} for {', '.join(agents)}" for value, agents in found.items())
        + ": their returns cannot be compared"
        for (task, name), found in agents_of.items()
        if len(found) > 1
    ]


def _chosen(records: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Returns the records of some conditions, of all if none is named."""
    chosen = records[records["condition"].isin(conditions)] if conditions else records
    if chosen.empty:
        there = ", ".join(records["condition"].unique())
        raise ValueError(f"conditions=[{','.join(conditions)}]: no such records; there are {there}")
    return chosen


def _draw(
    runs: Sequence[Path],
    names: Sequence[str],
    records_of: Sequence[pd.DataFrame],
    tables: dict[str, pd.DataFrame],
    published: pd.DataFrame | None,
    out: Path,
    formats: Sequence[str],
) -> dict[str, str]:
    """Draws the figures that have something to show.

    Args:
        runs: run folders.
        names: their agents' names.
        records_of: their records.
        tables: tables of all runs together, by name.
        published: returns of others that are drawn as lines, if any.
        out: folder of the figures.
        formats: suffixes of their files.

    Returns:
        Why each of these figures could not be drawn, by the name of its file; empty if it is there.
    """
    summary = tables["summary"]
    several = summary.loc[~summary["condition"].isin(BASELINES), "agent"].nunique() > 1
    logged, measured, pictured = (
        [i for i, run in enumerate(runs) if (run / name).exists()]
        for name in (METRICS, LEARNING_CURVE, ROLLOUTS)
    )
    has_something = {
        "return_vs_context.png": len(summary) > 0,
        "agents.png": several,
        "return_vs_tokens.png": (summary["context_tokens"] > 0).any(),
        "return_vs_window.png": "windows" in tables,
        "retrieval.png": "retrieval" in tables,
        "entropy.png": summary["action_entropy"].notna().any(),
        "training.png": bool(logged),
        "learning_curve.png": bool(measured),
        "attempts.png": bool(pictured),
    }

    def logs(name: str, which: list[int]) -> list[tuple[str, str, pd.DataFrame]]:
        return [
            (names[i], records_of[i]["task"].iloc[0], pd.read_csv(runs[i] / name)) for i in which
        ]

    def draw(path: Path) -> None:
        # Imported here: if matplotlib finds no place for its files, a figure fails, and no table.
        from experiments.reports import figures

        match path.stem:
            case "return_vs_context" if several:
                figures.variants(summary, path, published)
            case "return_vs_context":
                figures.return_vs_context(summary, path, published)
            case "agents":
                figures.agents(summary, path)
            case "return_vs_tokens" if several:
                figures.variants_by_tokens(summary, path)
            case "return_vs_tokens":
                figures.return_vs_tokens(summary, path)
            case "return_vs_window":
                figures.return_vs_window(tables["windows"], path)
            case "retrieval":
                figures.retrieval(tables["retrieval"], path)
            case "entropy":
                figures.entropy(summary, path)
            case "training":
                figures.training_curves(logs(METRICS, logged), path)
            case "learning_curve":
                figures.learning_curves(logs(LEARNING_CURVE, measured), path)
            case "attempts":
                records, rollouts = records_of[pictured[0]], runs[pictured[0]] / ROLLOUTS
                name = names[pictured[0]] if len(set(names)) > 1 else ""
                has_own = "own" in set(records["condition"])
                figures.attempts(rollouts, name, has_own, reported(records), path)

    shown = [Path(name) for name in FIGURES if has_something[name]]
    files = [str(name.with_suffix(f".{suffix}")) for name in shown for suffix in formats]
    return {file: drawing_failure(out / file, draw) for file in files}


def _records_of(run: Path) -> Path:
    """Returns the path of a run's records.

    Raises:
        ValueError: there are none; it says how to make them, or which folder may be meant.
    """
    if path := find_records(run):
        return path
    if not (run / CONFIG).exists():
        problem = f"{run}: no run is there" if run.is_dir() else f"{run}: no such folder"
        allowed = "a run that was evaluated, or a sweep of such runs"
        raise_config_error(problem, allowed, nearest_run(run))
    command = f"python -m experiments.evaluate {shell_words({'run': str(run)})}"
    raise ValueError(f"no records in {run}; evaluate it first: {command}")
