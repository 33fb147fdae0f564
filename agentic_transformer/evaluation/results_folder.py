"""Finds the folder for the results of an evaluation, so that no other results are overwritten.

The folder `base` is the run's, or the one that `out` names. It belongs to the first evaluation that
finishes:

    evaluation.json     everything that the records depend on, and the command that made them
    records.csv, rollouts.npz, summary.csv, figures, a video
    evaluate/<digest>/  the same files of another evaluation, named by a digest of its settings
        unfinished/     the finished parts of an evaluation that goes on, see `partial_results`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agentic_transformer.run_files import CHECKPOINTS, copy_description, read_json, write_json
from agentic_transformer.settings import differing, format_value

EVALUATION = "evaluation.json"
RECORDS = ("records.csv", "records.csv.gz")
ROLLOUTS = "rollouts.npz"
VIDEO = "attempts.mp4"
TABLES = ("summary.csv", "comparisons.csv", "paper_table.csv", "windows.csv", "retrieval.csv")
FIGURES = (
    "return_vs_context.png",
    "agents.png",
    "return_vs_tokens.png",
    "return_vs_window.png",
    "retrieval.png",
    "entropy.png",
    "training.png",
    "learning_curve.png",
    "attempts.png",
)


@contextmanager
def made(base: Path, run: Path) -> Iterator[None]:
    """Makes the folder for results, and removes what it made if the block raises an error.

    Args:
        base: the folder for results.
        run: folder of the run that is evaluated.

    Raises:
        ValueError: `base` cannot be made, or it is the folder of another run.
    """
    below = base / "evaluate"
    new = [folder for folder in (below, *below.parents) if not folder.exists()]
    if base.resolve() != run.resolve() and (base / CHECKPOINTS).exists():
        raise ValueError(f"out={base} is the folder of another run; name another folder")
    try:
        below.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"out={base} cannot be written to ({error.strerror}); out=<folder> names another"
        ) from None
    try:
        yield
    except BaseException:
        for folder in new:
            with suppress(OSError):  # another process uses it
                folder.rmdir()
        raise


def find_records(folder: Path) -> Path | None:
    """Returns the path of a folder's records, or None if there are none."""
    return next((folder / name for name in RECORDS if (folder / name).exists()), None)


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings that a folder's records depend on.

    Records of earlier versions do not tell them: then the dict is empty.
    """
    return _read(folder, "settings")


def evaluated_step(folder: Path) -> str:
    """Returns the step of the agent that a folder's records are of; empty if it is not told."""
    return _step_of(read_settings(folder).get("checkpoint", ""))


def read_command(folder: Path) -> dict[str, Any]:
    """Returns the settings of the command that made a folder's records; may be empty."""
    return _read(folder, "command")


def _read(folder: Path, part: str) -> dict[str, Any]:
    found = read_json(folder / EVALUATION).get(part)
    return found if isinstance(found, dict) else {}


def own_folder(base: Path, settings: dict[str, Any]) -> Path:
    """Returns the folder below `base` that belongs to an evaluation with these settings alone."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return base / "evaluate" / digest[:8]


def find(base: Path, settings: dict[str, Any]) -> Path | None:
    """Returns the folder with the records of an evaluation with these settings, or None."""
    return next(
        (
            folder
            for folder in (base, own_folder(base, settings))
            if find_records(folder) and read_settings(folder) == settings
        ),
        None,
    )


def claim(base: Path, settings: dict[str, Any], command: dict[str, Any], run: Path) -> Path:
    """Returns the folder for an evaluation's results, and writes there what made them.

    The folder is `base`, unless the results of another evaluation are there: then it is the
    evaluation's own folder below. If several evaluations finish together, one of them gets `base`.

    Args:
        base: the run's folder, or another one.
        settings: everything that the records depend on; values for JSON.
        command: settings of the command.
        run: folder of the run, whose settings are copied next to the results.
    """
    facts = {"settings": settings, "command": command}
    if not find_records(base):
        # Mode "x" makes the file or fails, in one step: this decides who gets `base`. It fails if
        # the same evaluation was here before, or another one has just finished.
        with suppress(FileExistsError), (base / EVALUATION).open("x") as file:
            try:
                file.write(json.dumps(facts, indent=2) + "\n")
                file.flush()
            except BaseException:  # a full disk or a signal: half a file would keep `base` for ever
                (base / EVALUATION).unlink()
                raise
    folder = base if read_settings(base) == settings else own_folder(base, settings)
    if folder != base:
        folder.mkdir(parents=True, exist_ok=True)
        print(
            f"{base} holds the records of another evaluation ({_difference(base, settings)}): "
            f"these go to {folder}",
            flush=True,
        )
    write_json(folder / EVALUATION, facts)
    if folder.resolve() != run.resolve():
        copy_description(run, folder)
    return folder


def remove_derived(folder: Path) -> None:
    """Removes the rollouts, tables and figures in a folder that belong to earlier records."""
    for name in (ROLLOUTS, VIDEO, *TABLES, *FIGURES):
        (folder / name).unlink(missing_ok=True)


def _difference(base: Path, settings: dict[str, Any]) -> str:
    """Returns how another evaluation's settings differ, in words: at most three settings."""
    there = read_settings(base)
    if not there:
        return "they do not say of which"
    keys = differing(there, settings)
    words = [_in_words(key, there.get(key), settings.get(key)) for key in keys[:3]]
    return "; ".join([*words, *(["..."] if len(keys) > 3 else [])])


def _in_words(key: str, there: Any, here: Any) -> str:
    """Says how one setting differs; for a digest, which nobody can read, what it stands for."""
    if key == "returns of the data":
        return "its data were others" if there and here else "only one of them reads data"
    if key == "checkpoint":
        there, here = map(_step_of, (there, here))
        if there == here:
            return f"its checkpoint {there} held another agent"
    return f"{key}={format_value(there)}, here {format_value(here)}"


def _step_of(checkpoint: Any) -> str:
    """Returns the step in the setting `checkpoint` of records, which a digest follows."""
    return str(checkpoint).partition(" ")[0]
