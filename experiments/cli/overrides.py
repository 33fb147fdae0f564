"""The words of a command line, read with Hydra's grammar and checked one by one, each value of a
sweep too.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    Override,
    Quote,
    QuotedString,
    Transformer,
    ValueType,
)
from hydra.errors import HydraException

from agentic_transformer.config import RENAMED, warn_renamed
from experiments.cli.settings import (
    Setting,
    check_task,
    listing,
    nearest,
    reject,
    shown,
    within,
)

# Hydra's settings that decide where runs lie and which there are: the harness decides that.
OURS = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.sweeper.params",
    "hydra.mode",
    "hydra.output_subdir",
    "hydra.job.chdir",
    "hydra.job.num",
    "hydra.runtime",
    "hydra.overrides",
)
# Quoted text, or one value without quotes. Brackets, parentheses and commas stand between values.
_VALUE = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:\$\{[^}]*\}|\\.|[^][(),'"\\])+""", re.DOTALL
)


@dataclass
class Assignment:
    """One override: a setting or a config group, and its value or the values of its sweep."""

    key: str
    values: list[Any]
    words: list[str]
    """For each of `values` the override that sets it."""
    of_hydra: bool = False

    @property
    def word(self) -> str:
        """The override that sets the value, or sweeps over the values in their order."""
        key = self.words[0].partition("=")[0]
        return f"{key}={','.join(word.partition('=')[2] for word in self.words)}"


@dataclass
class CommandLine:
    """A checked command line."""

    flags: list[str] = field(default_factory=list)
    """Such as --cfg job; --multirun is among them."""
    assignments: list[Assignment] = field(default_factory=list)
    multirun: bool = False
    runs: bool = True
    """Whether it starts work; --help and --cfg only show."""

    @property
    def overrides(self) -> list[str]:
        """The overrides for Hydra."""
        return [assignment.word for assignment in self.assignments]

    @property
    def each(self) -> list[list[str]]:
        """The overrides of each job; the last sweep changes fastest, as in Hydra."""
        every = itertools.product(*(assignment.words for assignment in self.assignments))
        return [list(words) for words in every]

    @property
    def jobs(self) -> list[frozenset[tuple[str, Any]]]:
        """The settings that tell the jobs from each other and from other jobs, in the order of
        `each`.
        """
        chosen = [[(one.key, _frozen(value)) for value in one.values] for one in self.learned]
        return [frozenset(pairs) for pairs in itertools.product(*chosen)]

    @property
    def learned(self) -> list[Assignment]:
        """The assignments that decide what is done, not where or by which launcher."""
        free = ("run", "resume")
        return [one for one in self.assignments if not one.of_hydra and one.key not in free]

    def value(self, key: str, otherwise: Any = None) -> Any:
        """The first value that the line gives a key."""
        return next((one.values[0] for one in self.assignments if one.key == key), otherwise)

    def ordered_as(self, earlier: CommandLine) -> CommandLine:
        """This line, which has the jobs of an earlier one, with these in the earlier order."""
        others = [one for one in self.assignments if one not in self.learned]
        return CommandLine(self.flags, [*earlier.learned, *others], self.multirun, self.runs)


def literal(text: str) -> str:
    """Text in the grammar of overrides, such that Hydra and OmegaConf read exactly this text."""
    return QuotedString(escaped(text), Quote.single).with_quotes()


def escaped(text: str) -> str:
    """Text in which OmegaConf finds no interpolation."""
    return re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)


def pasteable(values: dict[str, str | int | float | None]) -> str:
    """Settings as one can paste them into a shell."""
    return " ".join(shlex.quote(f"{key}={_plain(value)}") for key, value in values.items())


def _plain(value: str | int | float | None) -> str:
    """A value as an override spells it, without quotes where it needs none."""
    if isinstance(value, str) and (
        not re.fullmatch(r"[\w./:@+-]+", value) or value.lower() == "null"
    ):
        return literal(value)
    return shown(value)


def _quoted(element: Any) -> Any:
    """Text of a sweep in quotes: functions such as choice('1.10') drop them."""
    if isinstance(element, list):
        return list(map(_quoted, element))
    return QuotedString(element, Quote.single) if isinstance(element, str) else element


def said(words: list[str]) -> dict[str, str]:
    """What overrides say, by their settings, without quotes."""
    overrides = OverridesParser.create().parse_overrides(words)
    return {_key(override): shown(override.value()) for override in overrides}


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def groups(conf: Path, name: str) -> dict[str, list[str]]:
    """The config groups of a command and their options.

    Args:
        conf: folder of the configs.
        name: of the primary config, `<conf>/<name>.yaml`.
    """
    from omegaconf import OmegaConf

    entries = OmegaConf.to_container(OmegaConf.load(conf / f"{name}.yaml"))["defaults"]
    names = [group for entry in entries if isinstance(entry, dict) for group in entry]
    return {
        group: sorted(path.stem for path in (conf / group.split("@")[0]).glob("*.yaml"))
        for group in names
    }


def read(
    arguments: list[str],
    known: dict[str, Setting],
    options: dict[str, list[str]],
    together: bool = False,
) -> CommandLine:
    """Check a command line.

    Args:
        arguments: the words after the program's name.
        known: every setting by its key.
        options: every config group's options.
        together: whether the command takes the values of a sweep together: they need no -m then,
            which is for separate jobs.

    Raises:
        SettingError: something is unknown, malformed, given twice, or not a value that may stand
            there.
    """
    line, words = _flags(arguments)
    if together and line.multirun:
        reject("-m: this command takes several values together", "the same words without -m")
    if "--shell-completion" not in line.flags and "-sc" not in line.flags:
        line.assignments = assignments(words, known, options, line.multirun or together)
    return line


def assignments(
    words: list[str], known: dict[str, Setting], options: dict[str, list[str]], multirun: bool
) -> list[Assignment]:
    """Read overrides; the arguments and the errors are those of `read`."""
    parser = OverridesParser.create()
    seen: dict[str, str] = {}
    found = []
    for word in map(_renamed, words):
        override = _parse(parser, word, known)
        key = _key(override)
        if key in seen:
            reject(f"{key} is given twice: {seen[key]} and {word}", "each setting once")
        seen[key] = word
        elements = _check(override, word, multirun, known, options)
        if key in known and known[key].kind is str:
            elements = [_quoted(element) for element in elements]
        of_hydra, start = override.is_hydra_override(), override.get_key_element()
        spelled = [f"{start}={Transformer.str(element)}" for element in elements]
        if not override.is_sweep_override():
            spelled = [override.input_line]
        values = [Override._convert_value(element) for element in elements]
        found.append(Assignment(key, values, spelled, of_hydra))
    return found


def _renamed(word: str) -> str:
    """Returns an override with its setting's present name, which an earlier one may have."""
    key, equals, value = word.partition("=")
    group, _, name = key.lstrip("+").partition(".")
    if (new := RENAMED.get(group, {}).get(name)) is None:
        return word
    warn_renamed(f"{group}.{name}", f"{group}.{new}", "command line")
    return f"{key.replace(name, new)}{equals}{value}"


def _flags(arguments: list[str]) -> tuple[CommandLine, list[str]]:
    """The flags of a command line, and its overrides."""
    from hydra._internal.utils import get_args_parser

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            reject(
                message,
                "overrides such as train.steps=100, and Hydra's flags: -m, --help, --cfg job, --info",
            )

    parser = get_args_parser()
    parser.__class__ = Parser
    parsed = parser.parse_intermixed_args(arguments)
    for flag in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(parsed, flag):
            reject(
                f"--{flag.replace('_', '-')} is not used here",
                "settings of your own go into a file under conf/experiment",
            )
    if (
        parsed.run
        + parsed.multirun
        + bool(parsed.cfg)
        + bool(parsed.info)
        + parsed.shell_completion
        > 1
    ):
        reject(" ".join(arguments), "one of --run, --multirun, --cfg, --info, --shell-completion")
    shows = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    flags = [word for word in arguments if word not in parsed.overrides]
    return CommandLine(flags, multirun=parsed.multirun, runs=not shows), parsed.overrides


def _parse(parser: OverridesParser, word: str, known: dict[str, Setting]) -> Override:
    key, _, value = word.partition("=")
    is_text = key.lstrip("+") in known and known[key.lstrip("+")].kind is str
    # A function of numbers, such as range(1,3), cannot be read with its numbers as text.
    for spelling in [_as_text(parser, word), word] if is_text else [word]:
        with suppress(HydraException):
            return parser.parse_override(spelling)
    return reject(
        f"cannot read {word!r}",
        "key=value, a list key=[1,2], a sweep key=1,2 (with -m); quote what the shell would change",
        pasteable({key: value}) if is_text else None,
    )


def _as_text(parser: OverridesParser, word: str) -> str:
    """An override in which values that Hydra would take for numbers, or not read, are quoted."""

    def quote(found: re.Match[str]) -> str:
        typed = found[0].strip(" \t")
        if not typed or typed[0] in "'\"~{":  # ~/data and {a:1} are more likely not meant as names
            return found[0]
        try:
            value = parser.parse_override(f"x={typed}").value()
        except HydraException:
            return QuotedString(typed, Quote.single).with_quotes()
        if value is None or isinstance(value, str):
            return found[0]
        return QuotedString(typed, Quote.single).with_quotes()

    key, _, value = word.partition("=")
    return f"{key}={_VALUE.sub(quote, value)}"


def _key(override: Override) -> str:
    """The setting or group that an override is about; a group that stands elsewhere is called
    group@place.
    """
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def _check(
    override: Override,
    word: str,
    multirun: bool,
    known: dict[str, Setting],
    options: dict[str, list[str]],
) -> list[Any]:
    """Raise a SettingError if an override is wrong; return its values."""
    key, sweep = _key(override), override.is_sweep_override()
    if override.is_hydra_override():
        if any(within(key, name) or within(name, key) for name in OURS):
            reject(
                f"{word}: run folders are not Hydra's here",
                "run=<folder> names the folder, -m makes a sweep, key=a,b gives its values",
            )
        if sweep:
            reject(f"{word}: Hydra's own settings cannot be swept", "one value")
        if (override.is_add() or override.is_force_add()) and not within(key, "hydra.job.env_set"):
            reject(
                f"{word}: nothing can be added to Hydra's own settings",
                "those that --cfg hydra shows",
            )
        return _elements(override, word, [])
    if override.is_delete():
        reject(f"{word}: no setting can be removed", "key=value")
    if key not in known and key not in options:
        _reject_key(key, word, {*known, *options})
    if key in options and (override.is_add() or override.is_force_add()):
        reject(f"{word}: {key} is there already", word.lstrip("+"))
    if sweep and not multirun:
        hint = " (a list is written [a,b])" if key in known and known[key].many else ""
        reject(
            f"{word}: several values make a sweep, which needs -m{hint}",
            _allowed(key, known, options),
        )
    if sweep and (key == "resume" or (key == "run" and known[key].optional)):
        reject(f"{word}: a sweep is one folder, with one for each of its jobs in it", "one value")
    if sweep and key == "mesh.virtual_devices":
        reject(f"{word}: a process has one number of devices", "one command for each number")
    elements = _elements(override, word, options.get(key, []))
    if not elements:
        reject(f"{word}: an empty sweep", _allowed(key, known, options))
    values = [Override._convert_value(element) for element in elements]
    for value in values:
        _check_value(key, value, known, options)
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        reject(f"{word}: {shown(twice)} stands there twice", "each once")
    return elements


def _check_value(
    key: str, value: Any, known: dict[str, Setting], options: dict[str, list[str]]
) -> None:
    if key in options:
        if shown(value) not in options[key]:
            reject(
                f"{key}={shown(value)}: no such option",
                listing(options[key]),
                nearest(shown(value), options[key]),
            )
    elif not (
        isinstance(value, str) and "${" in value
    ):  # an interpolation is checked once it is resolved
        known[key].check(value)
        if key == "task":
            check_task(str(value))


def _allowed(key: str, known: dict[str, Setting], options: dict[str, list[str]]) -> str:
    return known[key].allowed if key in known else listing(options[key])


def _elements(override: Override, word: str, names: list[str]) -> list[Any]:
    """The value of an override, or every value of its sweep, as Hydra's parser holds them."""
    if not override.is_sweep_override():
        return [override._value]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return override._value.filter(names)
    if not override.is_discrete_sweep():
        reject(f"{word}: a sweep needs its values", "a,b or range(start,stop,step)")
    return list(override.sweep_iterator())


def _reject_key(key: str, word: str, names: set[str]) -> NoReturn:
    inside = key.rpartition(".")[0]
    siblings = [name for name in names if inside and name.startswith(inside + ".")] or {
        name.split(".")[0] for name in names
    }
    reject(f"{word}: there is no setting {key}", listing(siblings), nearest(key, names))
