"""Finds the run that a command goes on with, and checks that it is the same run.

`experiments.cli.sweeps` does so for sweeps.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentic_transformer import same_run
from agentic_transformer.errors import UserError, raise_config_error
from agentic_transformer.find_run import nearest_run
from agentic_transformer.run_files import CONFIG, is_locked
from agentic_transformer.settings import flat, lies_in, settings_of, shell_words, value_at
from experiments.cli.folders import contents, is_described
from experiments.cli.run_folder import (
    FOLDER_SETTINGS,
    Opened,
    open_folder,
    read_config,
)
from experiments.cli.run_status import read_status


def open_run(parent: Path, command_name: str, settings: Any) -> Opened:
    """Opens the folder of a run: the named one, the one to resume, or a new one in `parent`.

    Args:
        parent: where new folders go.
        command_name: such as "train".
        settings: an instance of the command's dataclass.

    Raises:
        UserError: the named folder holds another run, or there is nothing to resume.
    """
    named = Path(settings.run) if settings.run else None
    if named and settings.resume:
        if contents(named) == "a sweep":
            problem = f"run={named}: the folder holds a sweep, not a single run"
            alone = shell_words({"run": str(named), "resume": True})
            raise_config_error(problem, f"{alone} alone, or a new folder")
        check_same(named, settings)
    elif settings.resume:
        found = unfinished(parent, CONFIG)
        named = next((run for run in found if _is_same(run, command_name, settings)), None)
        if named is None:
            problem = f"resume=true: no unfinished run with these settings in {parent}"
            raise_config_error(problem, "run=<folder>")
    return open_folder(parent, named, settings.resume)


def _is_same(folder: Path, command_name: str, settings: Any) -> bool:
    """Returns whether a folder holds a run of a command with these settings, on the same data."""
    if read_status(folder).get("command") != command_name:
        return False
    try:
        check_same(folder, settings)
        earlier = read_config(folder, type(settings))
    except UserError:  # other settings, or settings that this version cannot read
        return False
    # Data may move, but here another place may well be that of another run's data.
    return not hasattr(settings, "data") or earlier.data.root == settings.data.root


def unfinished(parent: Path, file: str) -> list[Path]:
    """Returns unfinished and unlocked folders in `parent` that hold `file`, newest first."""
    found = [path.parent for path in parent.glob(f"*/{file}")]
    found = [
        run for run in found if not is_locked(run) and read_status(run).get("state") != "finished"
    ]
    return sorted(found, key=lambda run: read_status(run).get("started", ""), reverse=True)


def check_same(folder: Path, settings: Any) -> None:
    """Raises a UserError if a folder holds a run whose settings make it learn something else."""
    if not (folder / CONFIG).is_file():
        return
    earlier = read_config(folder, type(settings))
    same_run.check_same(folder, flat(asdict(earlier)), flat(asdict(settings)))


def is_done(folder: Path, settings: Any) -> bool:
    """Returns whether a run is finished; it is not if more steps are asked for now."""
    finished = read_status(folder).get("state") == "finished"
    return finished and _grows_from(folder, settings) is None


def print_growth(folder: Path, settings: Any) -> None:
    """Says how the learning rate changes if a run gets more steps than it was started with."""
    if (before := _grows_from(folder, settings)) is not None:
        steps = settings.train.steps
        print(
            f"train.steps={steps}, {before} before: from here on the learning rate follows the "
            f"cosine of {steps} steps",
            flush=True,
        )


def _grows_from(folder: Path, settings: Any) -> int | None:
    """Returns the steps that a run was started with, if more are asked for now."""
    if not same_run.may_grow(flat(asdict(settings))) or not (folder / CONFIG).is_file():
        return None
    before = read_config(folder, type(settings)).train.steps
    return before if before < settings.train.steps else None


def check_resumed(settings: Any, overrides: list[str]) -> None:
    """Raises a UserError if a run is to go on by its folder alone, and no run is there.

    With a setting that says what to learn, or `experiment=...`, a run without a folder may start:
    a job script says the same each time.

    Args:
        settings: an instance of the command's dataclass.
        overrides: the overrides of the command line.
    """
    if not getattr(settings, "resume", False) or not settings.run:
        return
    folder = Path(settings.run)
    alone = all(lies_in(key, *same_run.MAY_CHANGE) for key in given_keys(overrides))
    if alone and not is_described(folder):
        problem = f"run={folder} resume=true: no run is there ({CONFIG} is missing)"
        allowed = "the folder of a run, or experiment=<name> or other settings to start one there"
        raise_config_error(problem, allowed, nearest_run(folder))


def resumed_settings(settings: Any, overrides: list[str]) -> Any:
    """Returns settings of which all that no override gives are those of the resumed run.

    With `experiment=...` or `window=...`, which give settings of any group, all stay as they are.

    Args:
        settings: an instance of the command's dataclass.
        overrides: the overrides of the command line.

    Raises:
        UserError: the run's settings cannot be read.
    """
    named = getattr(settings, "resume", False) and settings.run
    given, known = given_keys(overrides), settings_of(type(settings))
    gives_any = any(not any(lies_in(key, place) for key in known) for place in given)
    if not named or not (Path(named) / CONFIG).is_file() or gives_any:
        return settings
    earlier = read_config(Path(named), type(settings))
    for key in known:
        if not lies_in(key, *given, *FOLDER_SETTINGS):
            place, _, name = key.rpartition(".")
            owner = value_at(settings, place) if place else settings
            setattr(owner, name, value_at(earlier, key))
    return settings


def given_keys(overrides: list[str]) -> list[str]:
    """Returns the settings and groups that overrides give, without Hydra's own."""
    keys = [word.lstrip("+~").partition("=")[0] for word in overrides]
    # agent@baseline sets `baseline`.
    return [key.partition("@")[2] or key for key in keys if re.split("[./]", key)[0] != "hydra"]
