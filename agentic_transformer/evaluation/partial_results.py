"""Keeps the finished parts of long work until all of it is finished.

After a kill, the same command continues after the finished parts. An evaluation keeps them in

    <run>/evaluate/<digest>/unfinished/
        settings.json     everything that the parts depend on; other settings drop the parts
        <condition>.csv   the records of one condition
        rollouts.npz      the attempts that pictures are drawn from

and a suite of benchmarks in `unfinished/` of its own folder. Every file is written under another
name and renamed once it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentic_transformer.run_files import read_json, write_json
from agentic_transformer.settings import differing

SETTINGS = "settings.json"


class PartialResults:
    """Holds the finished parts of one piece of work, each a file, for one process at a time."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Opens the parts, or makes a folder for them.

        Parts that were made with other settings are dropped, and one line says so.

        Args:
            folder: folder of the parts.
            settings: everything that decides what the parts will hold; values for JSON.
        """
        self.folder = folder
        earlier = read_json(folder / SETTINGS)
        if folder.exists() and earlier != settings:
            changed = ", ".join(differing(earlier, settings))
            print(f"unfinished results are dropped, since they differ in: {changed}", flush=True)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)

    def has(self, *names: str) -> bool:
        """Returns whether all of these parts are finished."""
        return all((self.folder / name).exists() for name in names)

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Adds a part, whole or not at all.

        Args:
            name: file name of the part.
            write: writes the part to the path that it is given.
        """
        partial = self.folder / f".{name}"
        write(partial)
        partial.replace(self.folder / name)

    def take(self, name: str, to: Path) -> None:
        """Moves a part to its final path and replaces what is there."""
        (self.folder / name).replace(to)

    def remove(self) -> None:
        """Removes what is left of the folder when the work is finished."""
        shutil.rmtree(self.folder)
