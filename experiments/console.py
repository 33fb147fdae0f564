"""Runs the commands under one name: `agentic-transformer train task=point_mass_goal`.

An installed copy has this command; `agentic-transformer <command>` is `python -m
experiments.<command>`.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from agentic_transformer.errors import listing, nearest

_NAME = "agentic-transformer"
_NO_COMMANDS = ("__init__", Path(__file__).stem)


def main() -> None:
    """Runs the command that the first word names, with the words behind it."""
    found = (path.stem for path in Path(__file__).parent.glob("*.py"))
    commands = sorted(set(found) - set(_NO_COMMANDS))
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(f"{_NAME} <command> [key=value ...]\n  commands: {listing(commands)}")
        print(f"  {_NAME} <command> --help shows its settings with their meanings")
        return
    if name not in commands:
        close = nearest(name, commands)
        said = f"{_NAME}: there is no command {name!r}\n  allowed: {listing(commands)}"
        print(said + (f"\n  nearest: {close}" if close else ""), file=sys.stderr)
        sys.exit(2)
    # As with `python -m`, modules of the user's folder can be imported; but none hides ours.
    sys.path.append(str(Path.cwd()))
    sys.argv[:2] = [f"{_NAME} {name}"]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
