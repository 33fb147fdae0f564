"""Reads the overrides of a command line with Hydra's grammar, and checks every value."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from agentic_transformer.earlier_settings import RENAMED, warn_renamed
from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.settings import (
    Setting,
    format_value,
    lies_in,
    quote_text,
    settings_of,
    shell_words,
)
from agentic_transformer.validation import check_task
from experiments.cli.packages import CONF

# Settings of Hydra that decide where runs lie and which runs there are: `run_folder` decides that.
RESERVED = (
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.sweeper.params", "hydra.mode",
    "hydra.output_subdir", "hydra.job.chdir", "hydra.job.num", "hydra.runtime", "hydra.overrides",
)  # fmt: skip
# Quoted text, or one value without quotes. Brackets, parentheses and commas stand between values.
_VALUE = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:\$\{[^}]*\}|\\.|[^][(),'"\\])+""", re.DOTALL
)


@dataclass
class Assignment:
    """Holds a setting or a config group, and its value or the values of its sweep."""

    key: str
    overrides: list[Override]
    """An override for each value."""

    @property
    def values(self) -> list[Any]:
        """Returns the values."""
        return [single.value() for single in self.overrides]

    @property
    def words(self) -> list[str]:
        """Returns the override for each value, as Hydra reads it."""
        return [single.input_line for single in self.overrides]

    @property
    def word(self) -> str:
        """Returns the override that sets the value, or sweeps over the values in their order."""
        if self.overrides[0].is_delete():
            return self.words[0]
        spelled = ",".join(single.get_value_string() for single in self.overrides)
        return f"{self.overrides[0].get_key_element()}={spelled}"


def read(
    words: list[str], command: type, groups: dict[str, list[str]], multirun: bool
) -> list[Assignment]:
    """Reads and checks overrides.

    Args:
        words: overrides, such as `train.steps=100` or `seed=0,1`.
        command: dataclass of the command's settings.
        groups: every config group's options.
        multirun: whether a setting may have several values.

    Raises:
        UserError: something is unknown, malformed, given twice, or has a wrong value.
    """
    reader = _Reader(command, groups, multirun)
    found: dict[str, Assignment] = {}
    for word in map(_rename, words):
        override = reader.parse(word)
        key = setting_or_group(override)
        if key in found:
            given = f"{found[key].word} and {word}"
            raise_config_error(f"{key} is given twice: {given}", "each setting once")
        found[key] = Assignment(key, reader.check(override, word))
    return list(found.values())


def raise_unknown(key: str, place: str, names: list[str]) -> NoReturn:
    """Raises a UserError that names the settings beside an unknown one.

    Args:
        key: the unknown setting, such as `train.stesp`.
        place: the override or the config file that gives it.
        names: the settings and the config groups of the command.
    """
    if members := _members(key, names):
        problem = f"{place}: {key} is a group of settings; give {key}.{members[0]}=..."
        raise_config_error(problem, f"in {key}: {listing(members)}")
    group = key.rpartition(".")[0]
    allowed = listing({name.partition(".")[0] for name in names})
    if members := _members(group, names):
        allowed = f"in {group}: {listing(members)}"
    raise_config_error(f"{place}: there is no setting {key}", allowed, nearest(key, names))


def _members(group: str, names: list[str]) -> list[str]:
    """Returns the settings of a group, without its name."""
    start = f"{group}."
    return [name.removeprefix(start) for name in names if name.startswith(start)]


def values_by_key(words: list[str]) -> dict[str, str]:
    """Returns the values of overrides by their settings, without quotes."""
    overrides = OverridesParser.create().parse_overrides(words)
    return {setting_or_group(override): format_value(override.value()) for override in overrides}


def setting_or_group(override: Override) -> str:
    """Returns the setting or group that an override sets; `group@place`, if it stands elsewhere."""
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def _in_home(path: str) -> str:
    """Returns a path with the user's home for its ~: after a `=` or in quotes, shells leave the ~.

    A path stays as it is if the user has no home.
    """
    with suppress(RuntimeError):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    return path


def _rename(word: str) -> str:
    """Returns an override with the current name of its setting, if it has an earlier one."""
    key, equals, value = word.partition("=")
    group, _, name = key.lstrip("+").partition(".")
    if (new := RENAMED.get(group, {}).get(name)) is None:
        return word
    warn_renamed(f"{group}.{name}", f"{group}.{new}", "command line")
    return f"{key.replace(name, new)}{equals}{value}"


class _Reader:
    """Parses and checks overrides of a command; its arguments are those of `read`."""

    def __init__(self, command: type, groups: dict[str, list[str]], multirun: bool) -> None:
        self.known, self.groups, self.multirun = settings_of(command), groups, multirun
        self.parser = OverridesParser.create()

    def parse(self, word: str) -> Override:
        """Returns an override; in one of a text setting, each value is exactly what was typed."""
        key, _, value = word.partition("=")
        setting = self.known.get(key.lstrip("+"))
        is_text = setting is not None and setting.kind is str
        # A function of numbers, such as range(1,3), cannot be read with its numbers as text.
        for spelling in [f"{key}={_VALUE.sub(self._as_text, value)}", word] if is_text else [word]:
            with suppress(HydraException):
                return self.parser.parse_override(spelling)
        return raise_config_error(
            f"cannot read {word!r}",
            "key=value, a list key=[1,2], a sweep key=1,2 (with -m); quote what the shell would "
            "change",
            shell_words({key: _in_home(value)}) if is_text else None,
        )

    def _as_text(self, found: re.Match[str]) -> str:
        """Returns a value in quotes, if Hydra would not read it as text."""
        typed = found[0].strip(" \t")
        if not typed or typed[0] in "'\"~{":  # ~/data and {a:1} are more likely not meant as names
            return found[0]
        try:
            value = self.parser.parse_override(f"x={typed}").value()
            return found[0] if value is None or isinstance(value, str) else quote_text(typed)
        except HydraException:
            return quote_text(typed)

    def check(self, override: Override, word: str) -> list[Override]:
        """Raises a UserError if an override is wrong; returns an override for each value."""
        key, sweep = setting_or_group(override), override.is_sweep_override()
        if override.is_hydra_override():
            self._check_hydra(override, key, word)
            return [override]
        setting, options = self.known.get(key), self.groups.get(key.partition("@")[0])
        if setting is None and options is None:
            raise_unknown(key, word, [*self.known, *self.groups])
        allowed = setting.allowed if setting else listing(options)
        if override.is_delete():
            place = key.partition("@")[2] or key
            if any(lies_in(name, place) for name in self.known):
                raise_config_error(f"{word}: no setting can be removed", "key=value")
            return [override]  # `~experiment` goes without the experiment that is the default
        if sweep and not self.multirun:
            hint = " (a list is written [a,b])" if setting and setting.many else ""
            problem = f"{word}: several values make a sweep, which needs -m{hint}"
            raise_config_error(problem, allowed)
        if sweep and (key == "resume" or (key == "run" and setting.optional)):
            problem = f"{word}: a sweep is one folder, with a folder for each job in it"
            raise_config_error(problem, "one value")
        singles = self._expand(override, word, options)
        if not singles:
            raise_config_error(f"{word}: an empty sweep", allowed)
        values = [single.value() for single in singles]
        for value in values:
            text = format_value(value)
            if values.count(value) > 1:
                raise_config_error(f"{word}: {text} stands there twice", "each once")
            if setting is None and text not in options:
                raise_config_error(f"{key}={text}: no such option", allowed, nearest(text, options))
            # An interpolation is checked once it is resolved.
            if setting is not None and not (isinstance(value, str) and "${" in value):
                self._check_agents(setting, value)
                setting.check(value)
                if key == "task":
                    check_task(value)
        return singles

    def _check_agents(self, setting: Setting, value: Any) -> None:
        """Raises a UserError if conditions of an evaluation name an agent of a run of its own."""
        if setting.key != "eval.conditions" or not isinstance(value, list):
            return
        agents = {path.stem for path in (CONF / "agent").glob("*.yaml")}
        for name in map(format_value, value):
            if name in agents and name not in setting.choices:
                problem = (
                    f"{setting.key}={format_value(value)}: {name} is an agent: train it with "
                    f"agent={name}, then experiments.plot runs=[<run>,<its run>] draws both"
                )
                raise_config_error(problem, setting.allowed)

    def _check_hydra(self, override: Override, key: str, word: str) -> None:
        """Raises a UserError unless an override of Hydra's own settings may stand here."""
        if any(lies_in(key, name) or lies_in(name, key) for name in RESERVED):
            ours = "run=<folder> names the folder, -m makes a sweep, key=a,b gives its values"
            raise_config_error(f"{word}: run folders are not Hydra's here", ours)
        if key == "hydra.searchpath":
            raise_config_error(f"{word}: it is not searched for options", "--config-dir <folder>")
        adds = override.is_add() or override.is_force_add()
        if override.is_sweep_override() or (adds and not lies_in(key, "hydra.job.env_set")):
            problem = f"{word}: Hydra's own settings have one value each, and none can be added"
            raise_config_error(problem, "those that --cfg hydra shows")

    def _expand(self, override: Override, word: str, options: list[str] | None) -> list[Override]:
        """Returns an override for each value of a sweep."""
        if not override.is_sweep_override():
            return [override]
        if isinstance(override.value(), Glob):
            values = override.value().filter(options or [])
        elif override.is_discrete_sweep():
            values = override.sweep_string_iterator()
        else:
            raise_config_error(f"{word}: a sweep needs its values", "a,b or range(start,stop,step)")
        return [self.parse(f"{override.get_key_element()}={value}") for value in values]
