"""Names the agents of several runs, so that different agents are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from agentic_transformer.earlier_settings import rename_settings, with_defaults
from agentic_transformer.evaluation.results_folder import evaluated_step, read_command
from agentic_transformer.run_files import CONFIG, PROVENANCE, read_json, read_settings
from agentic_transformer.same_run import MAY_CHANGE
from agentic_transformer.settings import flat, lies_in
from experiments.cli.run_status import saved_step

SHARED = ("seed", "baseline", *(key for key in MAY_CHANGE if key != "data.root"))
"""Settings in which runs of one agent may differ: they do not decide what is learned. Data in
another place are told apart by their episodes, see `agent_names`."""

ACTING = ("target", "temperature", "noise", "window", "held_out")
"""Evaluation settings in which runs of one agent may not differ: the target return, how actions are
drawn, and how long a context may be."""


def agent_names(
    runs: Sequence[Path], tables: Sequence[pd.DataFrame], without: str = ""
) -> list[str]:
    """Returns a name for each run's agent.

    If agents of one name differ in settings on one task, as those of a sweep do, these settings are
    added to their names. Runs that start from seeds of one pretrained agent (`init`) do not differ
    in that, nor do runs on the same episodes in several places (`data.root`). If only the records
    of a run are there, its settings are not known, and it keeps the name in its records.

    Args:
        runs: run folders.
        tables: their records.
        without: a setting that is left out of the names, since it is shown apart.

    Raises:
        ValueError: a run's settings cannot be read.
    """
    kinds = [tuple(table[["agent", "task"]].iloc[0]) for table in tables]
    settings = [_settings_of(run) for run in runs]
    first_of: dict[str, str] = {}  # the first folder of each pretrained agent stands for its seeds
    same_episodes = _places_of_same_episodes(runs, settings)
    for own in settings:
        own.pop(without, None)
        if init := own.get("init"):
            own["init"] = first_of.setdefault(_start(init), init)
        if root := own.get("data.root"):
            own["data.root"] = same_episodes.get(root, root)
    names = []
    for kind, own in zip(kinds, settings, strict=True):
        alike = [
            other for other, same in zip(settings, kinds, strict=True) if same == kind and other
        ]
        differing = [
            f"{key}={own.get(key)}"
            for key in sorted({key for config in alike for key in config})
            if own and len({str(config.get(key)) for config in alike}) > 1
        ]
        names.append(" ".join([kind[0], *differing]))
    return names


def _places_of_same_episodes(
    runs: Sequence[Path], settings: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """Returns the values of `data.root`, each with the first one that holds the same episodes.

    A digest in a run's files identifies its episodes. Runs of earlier versions have none.
    """
    place_of: dict[str, str] = {}
    first_of: dict[str, str] = {}  # the first place of each digest
    for run, own in zip(runs, settings, strict=True):
        root, digest = own.get("data.root"), read_json(run / PROVENANCE).get("episodes_digest")
        if root and digest:
            place = place_of.setdefault(root, root)
            same = place_of[first_of.setdefault(digest, root)]
            place_of |= {other: same for other, known in place_of.items() if known == place}
    return place_of


def with_name(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Returns a run's records under a name for its agent.

    The records of several agents got their names when they were joined, and keep them.
    """
    return table.assign(agent=name) if table["agent"].nunique() == 1 else table


def _settings_of(run: Path) -> dict[str, Any]:
    """Returns the settings of a run that make its agent, and how it acted, by their keys.

    They are empty if the run has no `config.yaml`, only records.
    """
    config = settings_in(run)
    if not config:
        return {}
    # Earlier versions wrote the settings of an evaluation to `evaluate/config.yaml`.
    evaluated = read_command(run) or settings_in(run / "evaluate") or config
    acted = {key: value for key, value in evaluated.get("eval", {}).items() if key in ACTING}
    asked = str(evaluated.get("checkpoint", "newest"))
    return (
        _learned(config)
        | {"checkpoint": _checkpoint_of(run, asked, config)}
        | flat({"eval": acted})
    )


def _learned(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that decide what is learned, by their keys."""
    return {key: value for key, value in flat(config).items() if not lies_in(key, *SHARED)}


def _start(init: str) -> str:
    """Returns a text that identifies the run from whose parameters a run starts.

    It holds that run's settings without its seed, and the step that it reached. If there are no
    settings, it is the run's folder.
    """
    try:
        made = _learned(settings_in(Path(init)))
    except ValueError:
        made = {}
    return str((sorted(made.items()), saved_step(Path(init)))) if made else init


def _checkpoint_of(run: Path, asked: str, config: dict[str, Any]) -> str:
    """Returns which checkpoint of a run acted: "newest" for the last step of its training.

    `checkpoint=newest` of a run that was stopped, or was evaluated before it went on, is another
    agent than that of a run that was trained to its end.

    Args:
        run: the run's folder.
        asked: `checkpoint` of the command that evaluated it.
        config: the run's settings.
    """
    step = evaluated_step(run)
    if asked == "best" or not step:  # the step of "best" differs between seeds
        return asked
    return "newest" if step == str(config.get("train", {}).get("steps")) else step


def settings_in(folder: Path) -> dict[str, Any]:
    """Returns the settings that a folder's `config.yaml` holds, or none without that file.

    Those of an earlier version get their current names. Settings that are newer than the file have
    their defaults, which are the behaviour from before.

    Raises:
        ValueError: the file holds something else.
    """
    path = folder / CONFIG
    settings = read_settings(folder) if path.exists() else {}
    if not isinstance(settings.get("eval", {}), dict):
        raise ValueError(f"{path} does not hold settings: eval={settings['eval']}")
    rename_settings(settings)
    return with_defaults(settings)
