"""Writes one HTML file about runs, with everything in it: it opens without a network."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agentic_transformer.evaluation.records import read_table
from agentic_transformer.evaluation.results_folder import VIDEO, read_command
from agentic_transformer.run_files import PROVENANCE, read_json
from agentic_transformer.settings import flat, format_value
from experiments.reports.agent_names import settings_in
from experiments.reports.condition_looks import NAMES
from experiments.reports.presentation import present
from experiments.reports.return_table import (
    ENOUGH_UNITS,
    at_longest,
    last_comparisons,
    too_few,
    with_intervals,
)
from experiments.reports.variants_table import in_cells

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
figure { margin: 1em 0; } figcaption { color: #555; font-size: 0.9em; }
img, video { max-width: 100%; height: auto; } video { width: 480px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87em; }
th, td { text-align: left; padding: 0.25em 0.8em; border-bottom: 1px solid #e3e3e3;
         vertical-align: top; }
th { background: #f5f5f3; } td { font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
.whole td, td:first-child { white-space: nowrap; }
.wide:not(.whole) td:not(:first-child) { overflow-wrap: anywhere; }
details { margin: 0.4em 0; } summary { cursor: pointer; }
"""

_CAPTIONS = {
    "return_vs_context.png": "Return of the n-th attempt against n.",
    "agents.png": "The last attempt's return of each agent.",
    "return_vs_tokens.png": "Return against the tokens in the context.",
    "return_vs_window.png": "Return against the window of the context.",
    "retrieval.png": "Return by the distance of the one informative trajectory.",
    "entropy.png": "Entropy of the agent's actions.",
    "learning_curve.png": "Return while training.",
    "training.png": "Loss while training.",
    "attempts.png": "What the first agent did in its attempts.",
}

_BESIDE = 4
"""Most runs that are shown as columns. If there are more, each gets a row, which fits a page."""

_FACTS = (
    *("started", "command", "commit", "dirty", "python", "platform", "processor"),
    *("device_kind", "devices", "episodes", "episodes_there"),
)
"""Provenance that is shown for each run; the setting `data.episodes` may ask for more episodes than
there were."""


def write_report(runs: Sequence[Path], path: Path, conditions: Sequence[str] = ()) -> None:
    """Writes a report with tables, figures, videos, provenance and settings.

    What a reader must know of them is printed too, and which figures could not be drawn.

    Args:
        runs: run folders, each with records.
        path: path of the HTML file.
        conditions: which to show; all if empty.

    Raises:
        ValueError: the records cannot be shown together, see
            `experiments.reports.presentation.present`, or the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "report"
        # What `present` prints names files that are about to go.
        with contextlib.redirect_stdout(io.StringIO()):
            notes = [
                note.replace(f"{folder}/", "")
                for note in present(runs, folder, conditions=conditions)
            ]
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
        summary = read_table((folder / "summary.csv").read_bytes())
        figures = [
            _figure(folder / name, caption)
            for name, caption in _CAPTIONS.items()
            if (folder / name).exists()
        ]
        comparisons = read_table((folder / "comparisons.csv").read_bytes())
    parts = [
        _section("Notes", "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)),
        _section("Results", _results(summary, comparisons)),
        _section("Figures", "".join(figures)),
        _section("Videos", "".join(map(_video, runs, _names(runs)))),
        _section("Settings that differ", _differences(runs)),
        _section("Provenance", _provenance(runs)),
        _section("All settings", "".join(map(_settings, runs, _names(runs)))),
    ]
    tasks, agents = (", ".join(summary[name].unique()) for name in ("task", "agent"))
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(tasks)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(tasks)}</h1><p>{html.escape(agents)}</p>{''.join(parts)}</body></html>\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out={path} cannot be written: {error.strerror}") from None


def _section(title: str, content: str) -> str:
    """Returns a section, or nothing if it has no content."""
    return f"<h2>{title}</h2>\n{content}\n" if content else ""


def _table(table: pd.DataFrame, kind: str = "wide") -> str:
    """Returns a table of text; in one of kind "wide whole" no cell breaks its line."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = (
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>\n"
        for row in table.to_numpy()
    )
    return f'<div class="{kind}"><table><tr>{head}</tr>\n{"".join(rows)}</table></div>'


def _results(summary: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Returns the last returns, and the own context against its controls."""
    text = (
        "<p>Return of the last attempt: mean and 95% interval. Each column is a "
        "condition: what the context held, or which baseline acted (docs/evaluation.md).</p>"
    )
    text += _table(in_cells(at_longest(summary)), "wide whole")
    last = last_comparisons(comparisons)
    if len(last):
        differences = pd.DataFrame(
            {
                "agent": last["agent"],
                "task": last["task"],
                "n": last["trajectories"],
                f"{NAMES['own']} minus": last["other"],
                "difference": with_intervals(last, ("difference", "low", "high"), "+.2f"),
                "rollouts": [
                    too_few(units) if units < ENOUGH_UNITS else units for units in last["units"]
                ],
            }
        )
        text += (
            f"<p>Difference of <i>{NAMES['own']}</i> from each other condition, paired by task: "
            "mean and 95% interval.</p>"
        )
        text += _table(differences, "wide whole")
    return text


def _figure(path: Path, caption: str) -> str:
    """Returns a picture that is part of the page."""
    return (
        f'<figure><img alt="{html.escape(caption)}" src="{_data(path, "image/png")}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """Returns the runs' folders within the folder that they share."""
    if len(runs) == 1:
        return [str(runs[0])]
    shared = os.path.commonpath([run.absolute().parent for run in runs])
    return [os.path.relpath(run.absolute(), shared) for run in runs]


def _by_run(head: str, rows: dict[str, Sequence[str]], runs: Sequence[Path]) -> str:
    """Returns a table of values of runs: a column for each run, or a row if they are many.

    Args:
        head: what the rows are.
        rows: a value for each run, by name.
        runs: the runs.
    """
    names = _names(runs)
    if len(runs) > _BESIDE:
        return _table(pd.DataFrame({"run": names, **rows}), "wide whole")
    # Lines, and no columns by name: a folder may be named like the head.
    lines = [[name, *values] for name, values in rows.items()]
    return _table(pd.DataFrame(lines, columns=[head, *names]))


def _video(run: Path, name: str) -> str:
    """Returns the video of a run's attempts as part of the page, if there is one."""
    if not (run / VIDEO).exists():
        return ""
    return (
        f'<figure><video controls muted src="{_data(run / VIDEO, "video/mp4")}"></video>'
        f"<figcaption>{html.escape(name)}</figcaption></figure>\n"
    )


def _data(path: Path, kind: str) -> str:
    """Returns a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _differences(runs: Sequence[Path]) -> str:
    """Returns the settings in which the runs differ, but for their folders."""
    settings = [_shown(run) for run in runs]
    keys = [
        key
        for key in sorted({key for one in settings for key in one})
        if key != "run" and len({one.get(key, "") for one in settings}) > 1
    ]
    rows = {key: [one.get(key, "") for one in settings] for key in keys}
    return _by_run("setting", rows, runs) if rows else ""


def _provenance(runs: Sequence[Path]) -> str:
    """Returns what the runs were made with: what differs, then what they share."""
    found = [read_json(run / PROVENANCE) for run in runs]
    facts = [
        {name: one[name] for name in _FACTS if one.get(name) is not None}
        | _versions(one.get("packages"))
        for one in found
    ]
    shown = {
        name: [format_value(one.get(name, "")) for one in facts]
        for name in {name: None for one in facts for name in one}  # each once, in their order
    }
    shared = {name: values[0] for name, values in shown.items() if len(set(values)) == 1}
    own = {name: values for name, values in shown.items() if name not in shared}
    text = _table(pd.DataFrame({"all runs": list(shared), "": list(shared.values())}))
    if own:
        text = _by_run("", own, runs) + "<br>" + text
    return text if shown else ""


def _versions(packages: Any) -> dict[str, str]:
    """Returns the versions of installed packages."""
    known = packages if isinstance(packages, dict) else {}
    return {name: version for name, version in known.items() if version}


def _settings(run: Path, name: str) -> str:
    """Returns all settings of a run, folded up."""
    settings = _shown(run)
    if not settings:
        return ""
    table = _table(pd.DataFrame({"setting": list(settings), "value": list(settings.values())}))
    return f"<details><summary>{html.escape(name)}</summary>{table}</details>\n"


def _shown(run: Path) -> dict[str, str]:
    """Returns the settings of a run as text."""
    settings = settings_in(run)
    evaluated = read_command(run).get("eval", settings.get("eval", {}))
    shown = flat(settings | ({"eval": evaluated} if evaluated else {}))
    return {key: format_value(value) for key, value in shown.items()}
