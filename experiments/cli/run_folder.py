"""Opens the folder of a run: unique, self-describing, and never reused by accident.

    runs/<task>/<date>-<time>-<unique>/
        config.yaml      every setting
        overrides.yaml   the overrides of the command line
        provenance.json  commit, versions, command, seeds; an entry under "resumed" for each resume
        status.json      {"state": ...}: "running" from the start on, then "finished", "failed" with
                         the error or "stopped" with the signal. A killed run stays "running".
                         Every run that is not "finished" can be resumed.
        lock             locked by the process that works here, so that no other one does

A sweep has one such folder, with a folder for each job in it, see `sweeps`.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from agentic_transformer.config import TrainCommand
from agentic_transformer.earlier_settings import rename_settings
from agentic_transformer.errors import raise_config_error
from agentic_transformer.find_run import nearest_run
from agentic_transformer.run_files import (
    CONFIG,
    LAST_KEY,
    LOCK,
    PROVENANCE,
    check_not_cut,
    read_json,
    write_config,
    write_json,
    write_marked,
)
from agentic_transformer.settings import settings_of, value_at
from experiments.cli import provenance
from experiments.cli.folders import OVERRIDES, contents
from experiments.cli.run_status import STATUS, read_status

RUNS = Path("runs")
# Settings that say where a run lies, not what it is.
FOLDER_SETTINGS = ("run", "resume")
# Files of every run, and Hydra's note of a sweep; every other file is somebody's work.
STANDARD_FILES = frozenset({CONFIG, OVERRIDES, PROVENANCE, STATUS, LOCK, "multirun.yaml"})
_ALLOWED = "a place where a folder can be made"
# Tries to make a new folder while other processes take its name or remove its empty parent.
_ATTEMPTS = 100


@dataclass
class Opened:
    """Holds the folder of a run or a sweep, and what was there before this command."""

    path: Path
    made: list[Path]
    """Folders that the command has made, the innermost first."""
    before: set[str]
    """Names of the entries that were in the folder."""

    def undo(self) -> None:
        """Removes what the command added, unless that includes somebody's work.

        Work is a file that is not empty and not in STANDARD_FILES.
        """
        new = [path for path in self.path.iterdir() if path.name not in self.before]
        files = [file for path in new for file in (path, *path.rglob("*")) if not file.is_dir()]
        if all(file.name in STANDARD_FILES or not file.stat().st_size for file in files):
            for path in new:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.remove_made()

    def remove_made(self) -> None:
        """Removes folders that the command has made and that are empty."""
        with suppress(OSError):  # not empty
            for folder in self.made:
                folder.rmdir()


def open_folder(parent: Path, named: Path | None, resume: bool) -> Opened:
    """Opens the folder of a run or a sweep.

    Args:
        parent: where a new folder `<date>-<time>-<unique>` goes.
        named: the folder that the user named, or that is resumed; None: a new one.
        resume: whether the folder may hold something already.

    Raises:
        UserError: the folder cannot be made, or may not be used again.
    """
    return _open_named_folder(named, resume) if named else _make_new_folder(parent)


def _make_new_folder(parent: Path) -> Opened:
    """Makes a folder with a new name in `parent`."""
    made: list[Path] = []
    for _ in range(_ATTEMPTS):
        path = parent / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        try:
            made = made or _missing_folders(parent)
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return Opened(path, [path, *made], set())
        except (FileExistsError, FileNotFoundError) as error:
            problem = error.strerror  # perhaps another process took the name or removed the parent
        except OSError as error:
            problem = error.strerror
            break
    Opened(parent, made, set()).remove_made()
    return raise_config_error(f"{parent}: {problem}", _ALLOWED)


def _open_named_folder(named: Path, resume: bool) -> Opened:
    """Opens a folder that may exist; only `resume` allows it to hold something."""
    opened = Opened(named, [], set())
    try:
        opened.made = _missing_folders(named)
        named.mkdir(parents=True, exist_ok=True)
        opened.before = {path.name for path in named.iterdir()}
    except OSError as error:
        opened.remove_made()
        raise_config_error(f"run={named}: {error.strerror}", _ALLOWED)
    if opened.before and not resume:
        allowed = "a new folder, or resume=true to continue what is there"
        raise_config_error(f"run={named}: the folder holds {contents(named)} already", allowed)
    return opened


def _missing_folders(wanted: Path) -> list[Path]:
    """Returns the folders that must be made for a wanted one, the innermost first."""
    return [folder for folder in (wanted, *wanted.parents) if not folder.exists()]


def newest(key: str) -> Path | None:
    """Returns the newest folder below `runs` that a setting may name: `run` or `sweep`."""
    found = [path.parent for depth in ("*", "*/*") for path in RUNS.glob(f"{depth}/{STATUS}")]
    fit = {
        "run": [folder for folder in found if read_status(folder).get("command") == "train"],
        "sweep": [folder for folder in found if contents(folder) == "a sweep"],
    }
    return max(fit.get(key, []), key=lambda one: read_status(one).get("started", ""), default=None)


def read_config(folder: Path, command_type: type) -> Any:
    """Returns the settings of a run as an instance of its command's dataclass.

    Raises:
        UserError: the folder has no settings, not all of them, or not this command's.
    """
    path = folder / CONFIG
    if not path.is_file():
        problem = f"run={folder}: no run is there ({CONFIG} is missing)"
        raise_config_error(problem, "a run folder of experiments.train", nearest_run(folder))
    if not path.stat().st_size:
        raise_config_error(f"{path} is empty", "a folder whose settings were written whole")
    check_not_cut(path)
    try:
        values = OmegaConf.load(path)
        rename_settings(values, str(path))
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(command_type), values))
    except (OmegaConfBaseException, YAMLError) as error:
        line = str(error).splitlines()[0]
        raise_config_error(f"{path} does not hold {command_type.__name__}'s settings: {line}")
    # A file without marks, of an earlier version, must hold the settings that are written last. In
    # a quickstart these are those of the baseline.
    last = {LAST_KEY, "baseline.reward_scale"} & settings_of(command_type).keys()
    check_not_cut(path, *last)
    return settings


def collect_provenance(settings: Any, argv: list[str]) -> dict[str, Any]:
    """Returns the provenance of a run that starts with these settings and this command line."""
    keys = [key for key in settings_of(type(settings)) if key.rpartition(".")[2] == "seed"]
    return provenance.collect(argv, {key: value_at(settings, key) for key in keys})


def write_description(
    folder: Path, settings: Any, overrides: list[str], facts: dict[str, Any]
) -> None:
    """Writes config.yaml and provenance, and for a new run overrides.yaml.

    A resumed run gets an entry under "resumed". If it trains, its config.yaml stays: training
    writes the new one, once it has found the data that the run learned from.

    Args:
        folder: of the run.
        settings: an instance of the command's dataclass.
        overrides: the overrides of the command line.
        facts: what `collect_provenance` returns.
    """
    earlier = read_json(folder / PROVENANCE) if getattr(settings, "resume", False) else {}
    if earlier:
        facts = earlier | {"resumed": [*earlier.get("resumed", []), facts]}
    folder.mkdir(exist_ok=True)
    # The settings come first: a folder with overrides alone is a sweep's.
    if not earlier or type(settings) is not TrainCommand or not (folder / CONFIG).is_file():
        write_config(folder, settings)
    if not earlier:
        write_overrides(folder, overrides)
    write_json(folder / PROVENANCE, facts)


def write_overrides(folder: Path, overrides: list[str]) -> None:
    """Writes the overrides of a command line into the folder of a run or a sweep."""
    write_marked(folder / OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(overrides)))


def read_overrides(folder: Path) -> list[str]:
    """Returns the overrides of a run or a sweep; an empty list if none were written.

    Raises:
        UserError: the file is empty or was cut short, as a full disk may have left it.
    """
    path = folder / OVERRIDES
    if not path.is_file():
        return []
    if not path.stat().st_size:
        raise_config_error(f"{path} is empty", "a folder whose overrides were written whole")
    check_not_cut(path)
    # Not resolved: what looks like an interpolation is part of an override.
    return list(map(str, OmegaConf.to_container(OmegaConf.load(path))))
