"""Prints the help of a command: the settings that most people change, or every one."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from functools import reduce
from typing import Any

from omegaconf import OmegaConf

from agentic_transformer.settings import Setting, format_value, settings_of
from experiments.cli.command_line import CommandLine

_WIDTH = 100
FIRST = (
    *("task", "run", "resume", "seed", "data.root", "data.algo", "data.episodes", "data.length"),
    *("data.action_repeat", "train.steps", "train.batch", "train.learning_rate", "model.width"),
    *("eval.trajectories", "mesh.ring", "eval.tasks", "eval.conditions", "checkpoint", "topology"),
    *("trajectories", "solve", "compile", "out"),
)
"""Settings that most people change; short help shows those that the command has."""

_FEW = 15
"""A command with at most this many settings shows all of them in its short help."""

_SHORT_FOOTER = """
--help-all shows all {count} settings, each with its meaning and what is allowed; --cfg job shows
the settings that this command line makes. Write key=value; {several}.
"""
_FOOTER = """
Write key=value, a list as key=[1,2], a config group as group=option; {several}.
Hydra's flags: --cfg job shows the composed settings, --info how they are composed,
--config-dir <folder> adds configs of your own, --hydra-help shows all flags.
"""


def short_help_text(name: str, line: CommandLine) -> str:
    """Returns a line for each setting of `FIRST`, or the whole help of a command with few."""
    known = settings_of(line.command)
    if len(known) <= _FEW:
        return help_text(name, line)
    values, choices = _composed(line)
    lines = [f"python -m experiments.{name} [key=value ...]", *_paragraphs(line.command, ""), ""]
    for key in filter(known.get, FIRST):
        meaning = re.split(r"[.;](?: |$)", known[key].meaning)[0]
        entry = f"  {_assignment(key, values):<32}  {meaning}"
        lines.append(entry if len(entry) <= _WIDTH else f"{entry[: _WIDTH - 4]} ...")
    for group in ("experiment", "agent", "model"):
        if group in choices:
            choice = _choice(group, choices[group], line.groups[group])
            lines += textwrap.wrap(f"  {choice}", _WIDTH, subsequent_indent="      ")
    footer = _SHORT_FOOTER.format(several=_several(line), count=len(known))
    return "\n".join(lines) + "\n" + footer


def _composed(line: CommandLine) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the values that the overrides make, and the option of each config group."""
    config = line.compose(line.job_overrides[0], with_hydra=True)
    chosen = config.hydra.runtime.choices.items()
    return OmegaConf.to_container(config), {key: one for key, one in chosen if "/" not in key}


def _choice(group: str, option: str | None, options: list[str]) -> str:
    """Returns a config group with the option that is chosen, if one is, and all options."""
    chosen = f"{group}={option}" if option else group
    return f"{chosen} ({', '.join(options)})"


def _several(line: CommandLine) -> str:
    """Says how a command takes several values of a setting."""
    return "key=1,2 plans for both" if line.takes_all else "-m key=1,2 makes a sweep"


def _assignment(key: str, values: dict[str, Any]) -> str:
    """Returns a setting with its value."""
    value = reduce(dict.get, key.split("."), values)
    return f"{key}=<required>" if value == "???" else f"{key}={format_value(value)}"


def help_text(name: str, line: CommandLine) -> str:
    """Returns the help of a command; the values shown are those that its overrides make."""
    values, choices = _composed(line)
    kinds, options = typing.get_type_hints(line.command), line.groups
    lines = [f"python -m experiments.{name} [key=value ...]", *_paragraphs(line.command, "")]
    place = ""
    for key, setting in settings_of(line.command).items():
        group = key.rpartition(".")[0]
        if group != place:
            place = group
            lines += ["", f"{group}:", *_paragraphs(kinds[group], "  ")]
            for chosen, option in choices.items():
                if group == (chosen.partition("@")[2] or chosen):
                    choice = _choice(chosen, option, options[chosen.partition("@")[0]])
                    lines += textwrap.wrap(f"  {choice}", _WIDTH, subsequent_indent="      ")
        lines += _entry(setting, values)
    for group in ("experiment", "window"):
        if group in choices:
            lines += ["", *textwrap.wrap(_choice(group, choices[group], options[group]), _WIDTH)]
            lines += ["    A file that sets several of the above at once."]
    return "\n".join(lines) + "\n" + _FOOTER.format(several=_several(line))


def _entry(setting: Setting, values: dict[str, Any]) -> list[str]:
    """Returns the lines of a setting."""
    facts = f"{setting.meaning} Allowed: {setting.allowed}."
    if setting.example:
        facts += f" Example: {setting.key}={setting.example}"
    return [f"  {_assignment(setting.key, values)}", *textwrap.wrap(facts, _WIDTH, **_INDENTED)]


def _paragraphs(described: type, indent: str) -> list[str]:
    """Returns a dataclass's docstring, indented."""
    return textwrap.indent(inspect.getdoc(described), indent).splitlines()


_INDENTED = {"initial_indent": "      ", "subsequent_indent": "      ", "break_on_hyphens": False}
