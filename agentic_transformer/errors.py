"""Defines errors that are meant for users, without a traceback.

They have at most three lines: what is wrong, what is allowed, and the nearest right word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

LINE_WIDTH = 240  # characters of an error's line without its paths; a group's settings fit
_PATHS = re.compile(r"""(?<!\S)["'(]*(?:[\w.]+=)?/\S+""")  # absolute, such as run=/home/me/run
_SIMILAR = 0.65  # smallest ratio of difflib for a hint: "best" and "latest" have 0.6
MEANT = {
    "latest": "newest",
    "last": "newest",
    "nothing": "none",
    "empty": "no_context",
    "another": "foreign",
    "order": "shuffled",
    "poor": "distractors",
    **dict.fromkeys(("env", "env_id", "env_name", "environment"), "task"),
    "dataset": "algo",
    **dict.fromkeys(("lr", "step_size"), "learning_rate"),
    **dict.fromkeys(("batch_size", "bs"), "batch"),
    "wd": "weight_decay",
    **dict.fromkeys(("grad_clip", "max_grad_norm"), "grad_clip_norm"),
    **dict.fromkeys(("epochs", "num_epochs", "iterations", "max_iters"), "steps"),
    **dict.fromkeys(("num_steps", "n_steps", "max_steps", "total_timesteps"), "steps"),
    **dict.fromkeys(("num_layers", "n_layers", "n_layer"), "layers"),
    **dict.fromkeys(("num_heads", "n_heads", "n_head"), "heads"),
    **dict.fromkeys(("hidden_size", "hidden_dim", "d_model", "dim", "embed_dim"), "width"),
    "gamma": "discount",
    **dict.fromkeys(("eval.episodes", "eval_episodes", "n_eval_episodes"), "eval.tasks"),
    **dict.fromkeys(("n_episodes", "num_episodes"), "episodes"),
}
"""The right word for each wrong one of the same meaning. Right words are values, names of settings,
or the ends of such names. Wrong ones are, for conditions, words of their names in figures, and for
settings, names of other codebases."""


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
    return shorten(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    )


def shorten(line: str) -> str:
    """Returns a line of at most `LINE_WIDTH` characters.

    Absolute paths do not count: they may be long, and what is wrong often stands after them.
    """
    width = LINE_WIDTH + sum(map(len, _PATHS.findall(line)))
    if len(line) <= width:
        return line
    cut = line[: width - 4]
    # Between items of a list, else between words, unless that leaves too little.
    for mark in (", ", " "):
        if (end := cut.rfind(mark)) > len(cut) // 2:
            return f"{cut[:end]}{mark.rstrip()} ..."
    return f"{cut} ..."


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Returns the one of `words` that means the same as `word`, is spelt alike, or ends in it.

    `latest` means `newest`, and `steps` is the end of `train.steps`. None is returned if no word is
    similar enough, since a wrong hint misleads. A group that two settings share does not count:
    `train.stesp` is compared with the settings of `train` by `stesp` alone. Of several settings
    with this end, the first is returned.
    """
    words = list(words)
    if (meant := MEANT.get(word.lower())) in words:
        return meant
    group, _, name = word.rpartition(".")
    wanted = (name, MEANT.get(name.lower()))
    ends = [known for known in words if known.rpartition(".")[2] in wanted]
    beside = [known for known in ends if known.rpartition(".")[0] == group]
    inside = {
        known.rpartition(".")[2]: known for known in words if known.rpartition(".")[0] == group
    }
    close = [inside[known] for known in _alike(name, inside)] if group else []
    others = [known for known in words if known != group and known not in inside.values()]
    close += _alike(word, others if group else words)
    return next(iter([*beside, *close, *ends] if group else [*ends, *close]), None)


def _alike(word: str, words: Iterable[str]) -> list[str]:
    """Returns the one of `words` that is most like `word`, if it is enough like it."""
    return difflib.get_close_matches(word, words, n=1, cutoff=_SIMILAR)


def listing(words: Iterable[str]) -> str:
    """Returns names in one line, for `allowed`."""
    return ", ".join(sorted(words))
