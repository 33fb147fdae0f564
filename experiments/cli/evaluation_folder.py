"""Where the results of an evaluation lie: beside those of others, never in their place.

The folder `base` is the run's, or the one that `out` names. It belongs to the first evaluation that
finishes:

    evaluation.json     all that the records depend on, and the command that made them
    records.csv, rollouts.npz, summary.csv, figures, a video
    evaluate/<digest>/  the same files of another evaluation, named after the digest of its settings
        unfinished/     parts of an evaluation until all are there, also of the first one, see
        `parts`
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from agentic_transformer.run_files import read_json, write_json
from agentic_transformer.settings import format_value as shown
from experiments.cli.run_folder import CONFIG, PROVENANCE

EVALUATION = "evaluation.json"
RECORDS = ("records.csv", "records.csv.gz")


def has_records(folder: Path) -> bool:
    """Returns whether a folder holds records."""
    return any((folder / name).exists() for name in RECORDS)


def made_with(folder: Path) -> dict[str, Any]:
    """Returns the settings that a folder's records depend on; empty for records of earlier
    versions, which do not say.
    """
    return _said(folder, "settings")


def asked_for(folder: Path) -> dict[str, Any]:
    """Returns the settings of the command that made a folder's records; empty where they do not
    say.
    """
    return _said(folder, "command")


def _said(folder: Path, part: str) -> dict[str, Any]:
    said = read_json(folder / EVALUATION).get(part)
    return said if isinstance(said, dict) else {}


def own_folder(base: Path, settings: dict[str, Any]) -> Path:
    """Returns the folder below `base` that belongs to an evaluation with these settings alone."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return base / "evaluate" / digest[:8]


def find(base: Path, settings: dict[str, Any]) -> Path | None:
    """Returns the folder with the records of an evaluation with these settings, if there is one."""
    places = (base, own_folder(base, settings))
    return next(
        (folder for folder in places if has_records(folder) and made_with(folder) == settings), None
    )


def claim(base: Path, settings: dict[str, Any], command: dict[str, Any], run: Path) -> Path:
    """Returns the folder for an evaluation's results, which says what they are made with.

    That is `base`, unless another evaluation's results are there: then its own folder. Of several
    that finish together, one gets `base`.

    Args:
        base: the run's folder, or another one.
        settings: all that the records depend on, values for JSON.
        command: settings of the command.
        run: folder of the run, whose settings are copied to where the results go.
    """
    said = {"settings": settings, "command": command}
    if not has_records(base):
        try:
            with (base / EVALUATION).open("x") as file:
                file.write(json.dumps(said, indent=2) + "\n")
        except FileExistsError:  # of this evaluation, made again, or of one that has just finished
            pass
    place = base if made_with(base) == settings else own_folder(base, settings)
    if place != base:
        place.mkdir(parents=True, exist_ok=True)
        print(
            f"{base} holds the records of another evaluation ({_difference(base, settings)}): these go to {place}",
            flush=True,
        )
    write_json(place / EVALUATION, said)
    if place.resolve() != run.resolve():
        for name in (CONFIG, PROVENANCE):
            if (run / name).exists():
                shutil.copy(run / name, place / name)
    return place


def _difference(base: Path, settings: dict[str, Any]) -> str:
    """What another evaluation was made with, in words: at most three settings."""
    there = made_with(base)
    if not there:
        return "they do not say of which"
    keys = sorted(
        key for key in there.keys() | settings.keys() if there.get(key) != settings.get(key)
    )
    said = [f"{key}={shown(there.get(key))}, here {shown(settings.get(key))}" for key in keys[:3]]
    return "; ".join([*said, *(["..."] if len(keys) > 3 else [])])
