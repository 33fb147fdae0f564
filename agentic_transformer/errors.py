"""Defines errors that are meant for users, without a traceback.

They have at most three lines: what is wrong, what is allowed, and the nearest right word.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn

LINE_WIDTH = 200  # characters of a line of an error


class UserError(ValueError):
    """Describes bad input to a user, without a traceback."""


def raise_config_error(what: str, allowed: str = "", nearest: str | None = None) -> NoReturn:
    """Raises a UserError of at most three lines.

    Args:
        what: what is wrong and where.
        allowed: what would be right.
        nearest: the right word most like the wrong one.
    """
    lines = [what]
    lines += [f"  allowed: {allowed}"] if allowed else []
    lines += [f"  nearest: {nearest}"] if nearest else []
    raise UserError("\n".join(map(_printable, lines)))


def _printable(line: str) -> str:
    """Returns a line without characters that would change how a terminal shows it."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= LINE_WIDTH else line[: LINE_WIDTH - 4] + " ..."


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Returns the one of `words` that is most like `word`, or ends in it.

    `steps` is near `train.steps`.
    """
    words = list(words)
    ends = [name for name in words if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return next(iter([*close, *ends] if "." in word else [*ends, *close]), None)


def listing(words: Iterable[str]) -> str:
    """Returns names in one line, for `allowed`."""
    return ", ".join(sorted(words))
