"""The words of a command line, read with Hydra's grammar and checked one by one, each value of a sweep too."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer, ValueType
from hydra.errors import HydraException

from experiments.harness.settings import Setting, check_task, listing, nearest, reject, shown

FOLDER_KEYS = ("hydra.run", "hydra.sweep", "hydra.mode", "hydra.output_subdir", "hydra.job.chdir")


@dataclass
class CommandLine:
    """A checked command line."""

    flags: list[str] = field(default_factory=list)
    """Such as --cfg job; --multirun is among them."""
    overrides: list[str] = field(default_factory=list)
    values: list[list[str]] = field(default_factory=list)
    """For each of `overrides` the words that set its value, or each value of its sweep."""
    of_groups: set[str] = field(default_factory=set)
    """Those of `overrides` that sweep over a config group."""
    multirun: bool = False
    runs: bool = True
    """Whether it starts work; --help and --cfg only show."""

    @property
    def first(self) -> list[str]:
        """`overrides` with the first value of each sweep."""
        return [words[0] for words in self.values]

    @property
    def kinds(self) -> list[list[str]]:
        """As `each`, of the values of sweeps over config groups; of other sweeps the first value."""
        return [
            list(words)
            for words in itertools.product(
                *(words if word in self.of_groups else words[:1] for word, words in zip(self.overrides, self.values, strict=True))
            )
        ]

    @property
    def each(self) -> list[list[str]]:
        """`overrides` with every combination of the values of sweeps, the last of them changing fastest."""
        return [list(words) for words in itertools.product(*self.values)]

    def without(self, *keys: str) -> list[str]:
        """The overrides of all but some keys."""
        return [word for word in self.overrides if word.lstrip("+").split("=", 1)[0] not in keys]


def groups(conf: Path, name: str) -> dict[str, list[str]]:
    """The config groups of a command and their options.

    Args:
        conf: folder of the configs.
        name: of the primary config, `<conf>/<name>.yaml`.
    """
    from omegaconf import OmegaConf

    entries = OmegaConf.to_container(OmegaConf.load(conf / f"{name}.yaml"))["defaults"]
    names = [group for entry in entries if isinstance(entry, dict) for group in entry]
    return {group: sorted(path.stem for path in (conf / group.split("@")[0]).glob("*.yaml")) for group in names}


def read(arguments: list[str], known: dict[str, Setting], options: dict[str, list[str]], together: bool = False) -> CommandLine:
    """Check a command line.

    Args:
        arguments: the words after the program's name.
        known: every setting by its key.
        options: every config group's options.
        together: whether the command takes the values of a sweep together: they need no -m then, which is for separate jobs.

    Raises:
        SettingError: something is unknown, malformed, given twice, or not a value that may stand there.
    """
    line = _flags(arguments)
    if together and line.multirun:
        reject("-m: this command takes several values together", "the same words without -m")
    if "--shell-completion" in line.flags or "-sc" in line.flags:
        return line
    parser = OverridesParser.create()
    seen: dict[str, str] = {}
    for word in line.overrides:
        override = _parse(parser, word)
        key = _key(override)
        if key in seen:
            reject(f"{key} is given twice: {seen[key]} and {word}", "each setting once")
        seen[key] = word
        elements = _check(override, word, line.multirun or together, known, options)
        if key in options and override.is_sweep_override():
            line.of_groups.add(word)
        key, sweep = word.split("=", 1)[0], override.is_sweep_override()
        line.values.append([f"{key}={Transformer.str(element)}" for element in elements] if sweep else [word])
    return line


def _flags(arguments: list[str]) -> CommandLine:
    from hydra._internal.utils import get_args_parser

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            reject(message, "overrides such as train.steps=100, and Hydra's flags: -m, --help, --cfg job, --info")

    parser = get_args_parser()
    parser.__class__ = Parser
    parsed = parser.parse_intermixed_args(arguments)
    for flag in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(parsed, flag):
            reject(f"--{flag.replace('_', '-')} is not used here", "settings of your own go into a file under conf/experiment")
    if parsed.run + parsed.multirun + bool(parsed.cfg) + bool(parsed.info) + parsed.shell_completion > 1:
        reject(" ".join(arguments), "one of --run, --multirun, --cfg, --info, --shell-completion")
    shows = parsed.help or parsed.hydra_help or parsed.cfg or parsed.info or parsed.shell_completion
    flags = [word for word in arguments if word not in parsed.overrides]
    return CommandLine(flags, parsed.overrides, multirun=parsed.multirun, runs=not shows)


def _parse(parser: OverridesParser, word: str) -> Override:
    try:
        return parser.parse_override(word)
    except HydraException:
        reject(
            f"cannot read {word!r}", "key=value, a list key=[1,2], a sweep key=1,2 (with -m); quote what the shell would change"
        )


def _key(override: Override) -> str:
    """The setting or group that an override is about; a group that stands elsewhere is called group@place."""
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def _check(override: Override, word: str, multirun: bool, known: dict[str, Setting], options: dict[str, list[str]]) -> list[Any]:
    """Raise a SettingError if an override is wrong; return its values."""
    key, sweep = _key(override), override.is_sweep_override()
    if override.is_hydra_override():
        if key.startswith(FOLDER_KEYS):
            reject(f"{word}: run folders are not Hydra's here", "run=<folder> names the folder, -m makes a sweep")
        if (override.is_add() or override.is_force_add()) and not key.startswith("hydra.job.env_set."):
            reject(f"{word}: nothing can be added to Hydra's own settings", "those that --cfg hydra shows")
        return _elements(override, word, [])
    if override.is_delete():
        reject(f"{word}: no setting can be removed", "key=value")
    if key not in known and key not in options:
        _reject_key(key, word, {*known, *options})
    if key in options and (override.is_add() or override.is_force_add()):
        reject(f"{word}: {key} is there already", word.lstrip("+"))
    if sweep and not multirun:
        hint = " (a list is written [a,b])" if key in known and known[key].many else ""
        reject(f"{word}: several values make a sweep, which needs -m{hint}", _allowed(key, known, options))
    if sweep and (key == "resume" or (key == "run" and known[key].optional)):
        reject(f"{word}: a sweep is one folder, with one for each of its jobs in it", "one value")
    if sweep and key == "mesh.virtual_devices":
        reject(f"{word}: a process has one number of devices", "one command for each number")
    elements = _elements(override, word, options.get(key, []))
    if not elements:
        reject(f"{word}: an empty sweep", _allowed(key, known, options))
    for element in elements:
        _check_value(key, Override._convert_value(element), known, options)
    return elements


def _check_value(key: str, value: Any, known: dict[str, Setting], options: dict[str, list[str]]) -> None:
    if key in options:
        if shown(value) not in options[key]:
            reject(f"{key}={shown(value)}: no such option", listing(options[key]), nearest(shown(value), options[key]))
    elif not (isinstance(value, str) and "${" in value):  # an interpolation is checked once it is resolved
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
    siblings = [name for name in names if inside and name.startswith(inside + ".")] or {name.split(".")[0] for name in names}
    reject(f"{word}: there is no setting {key}", listing(siblings), nearest(key, names))
