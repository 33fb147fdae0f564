"""Reads the settings of a command from its dataclass: keys, types, ranges and meanings."""

from __future__ import annotations

import math
import re
import shlex
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.imports import FORM, is_import_name

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Setting:
    """Describes one setting of a command."""

    key: str
    """Dotted, such as `train.steps`."""
    kind: type
    """Type of the value; of each element, for a list."""
    many: bool = False
    """Whether the value is a list; bounds and choices then hold for each element."""
    optional: bool = False
    """Whether the value may be null."""
    filled: bool = False
    """Whether the list must not be empty."""
    meaning: str = ""
    example: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    imported: bool = False
    """Whether a name in a user's module is allowed beside the choices, as `<module>:<NAME>`."""

    @property
    def allowed(self) -> str:
        """Says which values are allowed."""
        words = listing(self.choices) if self.choices else _TYPES[self.kind]
        words += f", {FORM}" if self.imported else ""
        if self.minimum is not None and self.maximum is not None:
            words += f" from {self.minimum} to {self.maximum}"
        elif self.minimum is not None:
            words += f", at least {self.minimum}"
        if self.many:
            words = f"a list such as [a,b], each {'one of ' if self.choices else ''}{words}"
        return words + (", or null" if self.optional else "")

    def check(self, value: Any) -> None:
        """Raises a UserError unless the value is allowed."""
        text = f"{self.key}={format_value(value)}"
        if value is None and self.optional:
            return
        if not self.many:
            self._check_element(value)
            return
        if not isinstance(value, list) or (self.filled and not value):
            if value == []:
                raise_config_error(f"{text}: an empty list", self.allowed)
            one = f"{self.key}=[{format_value(value)}]"
            raise_config_error(f"{text}: not a list", self.allowed, one)
        for element in value:
            self._check_element(element)
            if value.count(element) > 1:
                raise_config_error(
                    f"{text}: {format_value(element)} stands there twice", "each once"
                )

    def _check_element(self, value: Any) -> None:
        """Raises a UserError unless a value, or an element of a list, is allowed."""
        text = f"{self.key}={format_value(value)}"
        if not _has_type(value, self.kind):
            raise_config_error(f"{text}: needs {_TYPES[self.kind]}", self.allowed)
        named = self.imported and is_import_name(value)
        if self.choices and value not in self.choices and not named:
            raise_config_error(f"{text}: unknown", self.allowed, nearest(str(value), self.choices))
        low = self.minimum is not None and value < self.minimum
        if low or (self.maximum is not None and value > self.maximum):
            raise_config_error(f"{text}: out of range", self.allowed)


def _has_type(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if kind is str:  # a file name in another encoding has surrogates, which cannot be written
        return isinstance(value, str) and bool(value) and not re.search("[\ud800-\udfff]", value)
    return isinstance(value, kind)


@cache
def settings_of(command: type, prefix: str = "") -> dict[str, Setting]:
    """Returns every setting of a command's dataclass by its dotted key."""
    found = {}
    hints = typing.get_type_hints(command)
    for field in fields(command):
        key, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            found |= settings_of(hint, key + ".")
            continue
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
        many = typing.get_origin(hint) is list
        kind = typing.get_args(hint)[0] if many else hint
        filled = many and bool(field.default_factory())
        found[key] = Setting(key, kind, many, optional, filled, **field.metadata)
    return found


def value_at(command: Any, key: str) -> Any:
    """Returns the value that a command's dataclass holds at a dotted key."""
    for name in key.split("."):
        command = getattr(command, name)
    return command


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted key."""
    found = {}
    for key, value in values.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns the keys at which two dicts differ, sorted; what is missing counts as None."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def lies_in(key: str, *places: str) -> bool:
    """Returns whether a dotted key is one of `places` or lies in one of them."""
    return any(key == place or key.startswith(place + ".") for place in places)


def format_value(value: Any) -> str:
    """Returns a value as one would write it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(format_value, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_values(values: dict[str, Any], prefix: str = "") -> str:
    """Returns settings as one would write them on the command line, without quotes."""
    return " ".join(f"{prefix}{name}={format_value(value)}" for name, value in values.items())


def shell_words(values: dict[str, Any]) -> str:
    """Returns settings in quotes, so that they can be pasted into a shell."""
    return shell_join(f"{key}={_in_grammar(value)}" for key, value in values.items())


def shell_join(words: Iterable[str]) -> str:
    """Returns words as one would type them into a shell.

    A word that holds single quotes is put into double ones, which shlex would never do:
    "task='cheetah_speed(speed=1.5)'".
    """
    return " ".join(map(_quote_word, words))


def _quote_word(word: str) -> str:
    # Within double quotes a shell changes what these characters begin.
    readable = "'" in word and not re.search(r'["$`\\!]', word)
    return f'"{word}"' if readable else shlex.quote(word)


def _in_grammar(value: Any) -> str:
    """Returns a value in the grammar of Hydra's overrides, without quotes where it needs none."""
    if isinstance(value, str) and (
        not re.fullmatch(r"[\w./:@+-]+", value) or value.lower() == "null"
    ):
        return quote_text(value)
    return format_value(value)


def quote_text(text: str) -> str:
    """Returns text in quotes, so that Hydra and OmegaConf read exactly this text."""
    text = escape_interpolation(text)
    # In Hydra's quotes a backslash escapes a quote, or a backslash that stands before one.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def escape_interpolation(text: str) -> str:
    """Returns text in which OmegaConf finds no interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)
