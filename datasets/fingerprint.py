"""Identifies code, so that a stored value is used only while the same code would compute it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("envs", "datasets", "agentic_transformer")  # the last has a collector that learns
# Read at import, as Python reads modules: a file that is edited while a sweep runs changes neither
# the loaded modules nor their fingerprints.
_FILES = [path for package in _PACKAGES for path in _ROOT.joinpath(package).rglob("*.py")]
_SOURCE = {path: path.read_bytes() for path in _FILES}


@lru_cache
def fingerprint(*modules: str) -> str:
    """Returns a hash of the source of modules and of everything of ours that they import.

    It hashes the source and not the commit, as most commits touch no line that a value depends on.

    Args:
        *modules: dotted names, such as `envs.domains.walker`.
    """
    return hashlib.sha256(b"\0".join(_SOURCE[path] for path in sources(*modules))).hexdigest()[:16]


def sources(*modules: str) -> list[Path]:
    """Returns the files of modules and of all modules of ours that they import."""
    found: set[Path] = set()
    pending = list(modules)
    while pending:
        path = _ROOT.joinpath(*pending.pop().split(".")).with_suffix(".py")
        if path in _SOURCE and path not in found:
            found.add(path)
            pending += _imported(path)
    return sorted(found)


def _imported(path: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(_SOURCE[path])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def check_unedited(*modules: str) -> None:
    """Checks that the files of loaded modules are those that `fingerprint` has hashed.

    Raises:
        ValueError: a file was edited since, so the loaded module may be of either text.
    """
    for path in sources(*modules):
        if not path.is_file() or path.read_bytes() != _SOURCE[path]:
            name = path.relative_to(_ROOT)
            raise ValueError(f"{name} was edited while this process ran: start the command again")
