"""Finished parts of long work, kept until all of it is finished: after a kill the same command goes
on behind them.

    <run>/evaluate/<digest>/unfinished/      of an evaluation; a suite of benchmarks keeps its
    tables in the like of it
        settings.json     all that the parts depend on; parts that depend on anything else are
        dropped <condition>.csv   the records of a condition
        rollouts.npz      of the condition that pictures are made of

Every file is written under another name and renamed once it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentic_transformer.run_files import read_json, write_json

SETTINGS = "settings.json"


class Parts:
    """The finished parts of one piece of work, each a file; one process at a time may work on them."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Opens the parts, or makes a place for them; says so where earlier ones are dropped.

        Args:
            folder: of the parts.
            settings: values for JSON, all that decides what the parts will hold.
        """
        self.folder = folder
        earlier = read_json(folder / SETTINGS)
        if folder.exists() and earlier != settings:
            changed = sorted(
                key
                for key in earlier.keys() | settings.keys()
                if earlier.get(key) != settings.get(key)
            )
            print(
                f"what was unfinished is dropped, another {', '.join(changed)} was used there",
                flush=True,
            )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SETTINGS, settings)

    def has(self, *names: str) -> bool:
        """Whether parts are there."""
        return all((self.folder / name).exists() for name in names)

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Adds a part that `write` makes at the path it is given; it is there whole or not at all."""
        partial = self.folder / f".{name}"
        write(partial)
        partial.replace(self.folder / name)

    def take(self, name: str, to: Path) -> None:
        """Moves a part to where it is to stay, in place of what is there."""
        (self.folder / name).replace(to)

    def remove(self) -> None:
        """Removes what is left: the work is finished."""
        shutil.rmtree(self.folder)
