"""Names the files of a run's folder, writes its settings, reads and writes JSON, and locks it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from agentic_transformer.errors import raise_config_error
from agentic_transformer.settings import escape_interpolation

CONFIG = "config.yaml"
"""Every setting of the run."""

PROVENANCE = "provenance.json"
"""The commit, versions, command, seeds and machine of the run."""

CHECKPOINTS = "checkpoints"
"""The folder of the trained states, one folder a step."""

METRICS = "metrics.csv"
"""The losses of training."""

LEARNING_CURVE = "learning_curve.csv"
"""The returns that were measured while training."""

LOCK = "lock"
"""Locked (flock) by the process that works in the folder."""

LAST_KEY = "mesh.coordinator"
"""The setting that stands last in every version's `config.yaml` of training and evaluation."""

_FIRST_LINE, _LAST_LINE = "# The last line of this file is: # end\n", "# end\n"


def write_whole(path: Path, text: str) -> None:
    """Writes a text: after a kill the file is whole, or it is as it was before.

    A partial file that a killed process left is removed.
    """
    # Imported here: this brings HDF5, which the check of a command line does not wait for.
    from datasets.new_file import new_file, remove_partial_files

    remove_partial_files(path.parent, path.name)
    with new_file(path) as partial:  # several may write one path, such as that of a shared cache
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Writes facts as JSON, whole or not at all."""
    write_whole(path, json.dumps(facts, indent=2) + "\n")


def write_config(folder: Path, settings: Any) -> None:
    """Writes the settings of a run's command, an instance of its dataclass, whole or not at all."""
    write_marked(folder / CONFIG, _as_yaml(settings))


def written_settings(settings: Any) -> dict[str, Any]:
    """Returns settings by group, as `read_settings` finds them once `write_config` wrote them."""
    return yaml.safe_load(_as_yaml(settings))


def read_settings(folder: Path, *last_keys: str) -> dict[str, Any]:
    """Returns the settings in the `config.yaml` of a folder by group, as they stand there.

    Some may have earlier names. Settings newer than the file are missing.

    Args:
        folder: with the file.
        *last_keys: settings that the file has to hold if it has no marks, see `check_not_cut`.

    Raises:
        UserError: they cannot be read, or were cut short.
    """
    path = folder / CONFIG
    try:
        check_not_cut(path, *last_keys)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError("not a mapping")
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        return raise_config_error(f"{path} does not hold settings: {' '.join(str(error).split())}")
    return values


def _as_yaml(settings: Any) -> str:
    return yaml.dump(asdict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write_marked(path: Path, yaml_text: str) -> None:
    """Writes YAML between two comments, by which `check_not_cut` knows that it is whole."""
    write_whole(path, f"{_FIRST_LINE}{yaml_text}{_LAST_LINE}")


def check_not_cut(path: Path, *last_keys: str) -> None:
    """Checks that a file of YAML was not cut short on the disk: the rest may still be valid YAML.

    A file without marks was written by an earlier version, or by hand.

    Args:
        path: of the file.
        *last_keys: settings that a file without marks has to hold, such as `mesh.coordinator`.
            Earlier versions wrote fewer settings, but ended with these. If none are given, every
            file without marks passes.

    Raises:
        UserError: it was cut.
    """
    text = path.read_bytes()
    first, last = _FIRST_LINE.encode(), _LAST_LINE.encode()
    if text and first.startswith(text[: len(first)]):
        whole = text.endswith(b"\n" + last)
    else:
        whole = not last_keys or (
            text.endswith(b"\n") and all(_holds(text, key) for key in last_keys)
        )
    if not whole:
        raise_config_error(
            f"{path} was cut short: its end is missing. Defaults in place of the lost settings "
            "would make another run; restore the whole file from a copy"
        )


def _holds(text: bytes, key: str) -> bool:
    """Returns whether YAML holds a setting; true for broken YAML, which its reader reports."""
    try:
        values = yaml.safe_load(text)
        for name in key.split("."):
            values = values[name]
    except (KeyError, TypeError):
        return False
    except (yaml.YAMLError, UnicodeDecodeError):
        return True
    return True


def copy_description(run: Path, folder: Path) -> None:
    """Copies a run's settings and its provenance.

    Only the command line writes provenance: a run of `agentic_transformer.train` has none.
    """
    for name in (CONFIG, PROVENANCE):
        if (run / name).exists():
            shutil.copy(run / name, folder / name)


class _Dumper(yaml.SafeDumper):
    """Writes YAML in which OmegaConf, whose grammar is larger, finds the same texts."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Escapes interpolations, which are resolved already, and quotes what looks like a number."""
    style = '"' if re.fullmatch(r"[-+.:_\deE]+", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", escape_interpolation(text), style)


_Dumper.add_representer(str, _represent_text)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the facts that `write_json` left, or an empty dict if there are none."""
    try:
        facts = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no JSON, or no text
        return {}
    return facts if isinstance(facts, dict) else {}


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Locks a folder against other processes while the block runs.

    On a file system without locks, one warning line is printed and nobody is kept out.

    Raises:
        ValueError: another process works in the folder.
    """
    # Imported here: this brings HDF5, which the check of a command line does not wait for.
    from datasets.locks import flock

    with (folder / LOCK).open("a") as handle:
        for wait in (0.1, 0.1, None):
            try:
                flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if wait is None:
                    raise ValueError(
                        f"run={folder}: another process works there\n"
                        "  allowed: wait until it has ended, or start a new run"
                    ) from None
            time.sleep(wait)  # perhaps a process only asks `is_locked`, which takes a moment
        yield


def is_locked(folder: Path) -> bool:
    """Returns whether a process works in a folder, or its lock cannot be opened."""
    try:
        handle = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:  # another user's, say: nothing can go on there
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared with others that ask this
        return False
    except BlockingIOError:
        return True
    except OSError:  # the file system has no locks
        return False
    finally:
        os.close(handle)
