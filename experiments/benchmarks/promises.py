"""Reads the promises of `docs/promises.md` and the tests that hold them."""

from __future__ import annotations

import re
from typing import NamedTuple

from experiments.cli.packages import ROOT

PAGE = ROOT / "docs" / "promises.md"


class Promise(NamedTuple):
    """Describes one numbered promise.

    Attributes:
        number: number of the promise, counted from 1.
        text: its sentence in bold.
        tests: node ids as pytest takes them, `tests/<file>.py` or `tests/<file>.py::<function>`.
    """

    number: int
    text: str
    tests: list[str]


def read(page: str | None = None) -> list[Promise]:
    """Returns the promises of a page, in its order.

    Args:
        page: text of a page; None reads `docs/promises.md`.
    """
    page = PAGE.read_text() if page is None else page
    parts = re.split(r"^\*\*(\d+)\. (.+?)\*\*", page, flags=re.MULTILINE | re.DOTALL)[1:]
    return [
        Promise(int(number), " ".join(text.split()), re.findall(r"^- `(.+)`$", tests, re.MULTILINE))
        for number, text, tests in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]
