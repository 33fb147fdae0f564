"""Lists a folder's files with their SHA-256, and finds what has changed since.

Storage flips bits and transfers are cut short, and array formats read the result without an error.
The list has the format of `sha256sum --check`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

SUMS_FILE = "SHA256SUMS"


def write(folder: Path) -> None:
    """Writes the list of all files of a folder; the list appears whole or not at all."""
    lines = "".join(f"{_sha256(path)}  {name}\n" for name, path in sorted(_files(folder).items()))
    partial = folder / f".{SUMS_FILE}"
    partial.write_text(_head(lines) + lines)
    partial.replace(folder / SUMS_FILE)


def digest(folder: Path) -> str:
    """Returns the SHA-256 of a folder's list, which stands for all files on it."""
    return hashlib.sha256((folder / SUMS_FILE).read_bytes()).hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each file on a folder's list, by the file's name."""
    lines = (folder / SUMS_FILE).read_text(errors="replace").splitlines()[1:]
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def problem(folder: Path) -> str:
    """Returns a one-line problem with the file's name; an empty string if the folder is unchanged.

    The folder is unchanged if all files are as they were when its list was written.
    """
    sums = folder / SUMS_FILE
    if not sums.is_file():
        return f"{sums} is missing"
    head, newline, lines = sums.read_text(errors="replace").partition("\n")
    if head + newline != _head(lines):
        return f"{sums} has changed"
    expected, present = listed(folder), _files(folder)
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            return f"{folder / name} is missing"
        if name not in expected:
            return f"{folder / name} is not in {SUMS_FILE}"
        try:
            changed = _sha256(present[name]) != expected[name]
        except OSError as error:
            return f"{present[name]} cannot be read: {error.strerror}"
        if changed:
            return f"{present[name]} has changed (SHA-256)"
    return ""


def _head(lines: str) -> str:
    """Returns the list's own SHA-256, as a comment that `sha256sum` skips."""
    return f"# {hashlib.sha256(lines.encode()).hexdigest()}\n"


def _files(folder: Path) -> dict[str, Path]:
    """Returns all files of a folder but the list, by their names within it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path
        for path in files
        if path.name not in (SUMS_FILE, f".{SUMS_FILE}")
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
