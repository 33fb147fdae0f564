"""Prints the help of a command: every setting with its default, meaning and allowed values."""

from __future__ import annotations

import inspect
import textwrap
import typing
from functools import reduce

from omegaconf import OmegaConf

from agentic_transformer.settings import Setting, format_value, settings_of
from experiments.cli.command_line import CommandLine

_WIDTH = 100
_FOOTER = """
Write key=value, a list as key=[1,2], a config group as group=option; {several}.
Hydra's flags: --cfg job shows the composed settings, --info how they are composed,
--config-dir <folder> adds configs of your own, --hydra-help shows all flags.
"""


def help_text(name: str, line: CommandLine) -> str:
    """Returns the help of a command; the values shown are those that its overrides make."""
    config = line.compose(line.job_overrides[0], with_hydra=True)
    choices = {
        key: option for key, option in config.hydra.runtime.choices.items() if "/" not in key
    }
    values = OmegaConf.to_container(config)
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
                    several = ", ".join(options[chosen.partition("@")[0]])
                    choice = f"  {chosen}={option} ({several})"
                    lines += textwrap.wrap(choice, _WIDTH, subsequent_indent="      ")
        lines += _entry(setting, reduce(dict.get, key.split("."), values))
    for group in ("experiment", "window"):
        if group in choices:
            several = ", ".join(options[group])
            chosen = f"{group}={format_value(choices[group])} ({several})"
            lines += ["", *textwrap.wrap(chosen, _WIDTH)]
            lines += ["    A file that sets several of the above at once."]
    several = "key=1,2 plans for both" if line.takes_all else "-m key=1,2 makes a sweep"
    return "\n".join(lines) + "\n" + _FOOTER.format(several=several)


def _entry(setting: Setting, value: object) -> list[str]:
    """Returns the lines of a setting."""
    facts = f"{setting.meaning} Allowed: {setting.allowed}."
    if setting.example:
        facts += f" Example: {setting.key}={setting.example}"
    shown = "<required>" if value == "???" else format_value(value)
    return [f"  {setting.key}={shown}", *textwrap.wrap(facts, _WIDTH, **_INDENTED)]


def _paragraphs(described: type, indent: str) -> list[str]:
    """Returns a dataclass's docstring, indented."""
    return textwrap.indent(inspect.getdoc(described), indent).splitlines()


_INDENTED = {"initial_indent": "      ", "subsequent_indent": "      ", "break_on_hyphens": False}
