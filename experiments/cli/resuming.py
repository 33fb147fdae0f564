"""Finds the run that a command goes on with, and checks that it is the same run.

`experiments.cli.sweeps` does so for sweeps.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agentic_transformer.agents.run_folders import nearest_run
from agentic_transformer.errors import UserError, raise_config_error
from agentic_transformer.run_files import CONFIG, LEARNING_CURVE, is_locked
from agentic_transformer.settings import format_value, lies_in, settings_of, value_at
from experiments.cli.run_folder import (
    FOLDER_SETTINGS,
    Opened,
    contents,
    is_described,
    open_folder,
    read_config,
)
from experiments.cli.run_status import read_status

# Settings that may change when a run is resumed: none of them touches what is learned.
MAY_CHANGE = (
    "run", "resume", "data.cache", "eval", "mesh", "train.log_every", "train.checkpoint_every",
    "train.keep", "train.keep_best", "train.profile", "train.eval_every", "train.eval_tasks",
    "logger",
)  # fmt: skip
# Those of them that decide what learning_curve.csv measures.
MEASURED = (
    *("eval.seed", "eval.held_out", "eval.target", "eval.temperature", "eval.noise", "eval.window"),
    "train.eval_tasks",
)


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
            raise_config_error(problem, f"run={named} resume=true alone, or a new folder")
        check_same(named, settings)
    elif settings.resume:
        found = unfinished(parent, CONFIG)
        named = next((run for run in found if _is_same(run, command_name, settings)), None)
        if named is None:
            problem = f"resume=true: no unfinished run with these settings in {parent}"
            raise_config_error(problem, "run=<folder>")
    return open_folder(parent, named, settings.resume)


def _is_same(folder: Path, command_name: str, settings: Any) -> bool:
    """Returns whether a folder holds a run of a command with these settings."""
    try:
        check_same(folder, settings)
    except UserError:  # other settings, or settings that this version cannot read
        return False
    return read_status(folder).get("command") == command_name


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
    for key in settings_of(type(settings)):
        there, here = value_at(earlier, key), value_at(settings, key)
        grows = key == "train.steps" and there < here and _may_grow(settings)
        if there != here and not grows and not lies_in(key, *MAY_CHANGE):
            difference = f"{key} is {format_value(there)} there and {format_value(here)} here"
            problem = f"run={folder} cannot be continued: {difference}"
            raise_config_error(problem, "the settings it was started with; train.steps may grow")
        if there != here and lies_in(key, *MEASURED) and _curve_goes_on(folder, settings):
            difference = f"{key}={format_value(there)} there and {format_value(here)} here"
            raise_config_error(
                f"run={folder}: {LEARNING_CURVE} would mix {difference}",
                f"{key}={format_value(there)}, or train.eval_every=0; experiments.evaluate takes "
                "any",
            )


def _curve_goes_on(folder: Path, settings: Any) -> bool:
    """Returns whether a resumed run adds to a learning curve that has begun."""
    curve = folder / LEARNING_CURVE
    begun = curve.is_file() and curve.stat().st_size > 0
    return begun and hasattr(settings, "train") and settings.train.eval_every > 0


def _may_grow(settings: Any) -> bool:
    """Returns whether a run may be given more steps: it trains one agent."""
    return hasattr(settings, "train") and not hasattr(settings, "baseline")


def is_done(folder: Path, settings: Any) -> bool:
    """Returns whether a run is finished; it is not if more steps are asked for now."""
    finished = read_status(folder).get("state") == "finished"
    return finished and _grows_from(folder, settings) is None


def print_growth(folder: Path, settings: Any) -> None:
    """Says what more steps than a run was started with do to its learning rate."""
    if (before := _grows_from(folder, settings)) is not None:
        steps = settings.train.steps
        print(
            f"train.steps={steps}, {before} before: from here on the learning rate follows the "
            f"cosine of {steps} steps",
            flush=True,
        )


def _grows_from(folder: Path, settings: Any) -> int | None:
    """Returns the steps that a run was started with, if more are asked for now."""
    if not _may_grow(settings) or not (folder / CONFIG).is_file():
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
    alone = all(lies_in(key, *MAY_CHANGE) for key in given_keys(overrides))
    if alone and not is_described(folder):
        problem = f"run={folder} resume=true: no run is there ({CONFIG} is missing)"
        allowed = "the folder of a run, or experiment=<name> or other settings to start one there"
        raise_config_error(problem, allowed, nearest_run(folder))


def resumed_settings(settings: Any, overrides: list[str]) -> Any:
    """Returns settings with those that no override gives as in the run that is resumed.

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
