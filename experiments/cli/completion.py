"""Finds what may follow the beginning of a command line, for a shell's Tab."""

from __future__ import annotations

import re
from collections.abc import Iterable

import envs
from agentic_transformer import config
from agentic_transformer.settings import Setting, settings_of
from experiments.cli.command_line import groups_of
from experiments.cli.packages import CONF

_MODULE = "experiments."

_FUNCTION = """\
_agentic_transformer_completion() {{
    local line="${{COMP_LINE:0:$COMP_POINT}}" IFS=$'\\n'
    case "$line" in *"-m experiments."*) ;; *) COMPREPLY=(); return ;; esac
    COMPREPLY=($({python} -m experiments.completion "$line" 2>/dev/null))
}}
complete -o default -o nospace -F _agentic_transformer_completion python python3"""


def shell_function(python: str) -> str:
    """Returns what bash evaluates to complete commands.

    Args:
        python: path of the interpreter that knows this project.
    """
    return _FUNCTION.format(python=f"'{python}'")


def completions(line: str, commands: Iterable[str]) -> list[str]:
    """Returns what a shell may put in place of the last word of a line.

    bash takes `=` for a border between words: after one, only the value is returned.

    Args:
        line: the beginning of a command line, up to the cursor.
        commands: names of the commands.
    """
    last = re.split(r"\s", line)[-1]
    if last.startswith(_MODULE):
        names = (_MODULE + name for name in sorted(commands))
        return [f"{name} " for name in names if name.startswith(last)]
    named = re.search(r"-m\s+experiments\.(\w+)\s", line)
    command = getattr(config, f"{named[1].capitalize()}Command", None) if named else None
    if command is None:
        return []
    settings, groups = settings_of(command), groups_of(named[1], [CONF])
    key, equals, value = last.partition("=")
    if equals:
        values = groups.get(key) or (_values(settings[key]) if key in settings else [])
        return [f"{word} " for word in values if word.startswith(value)]
    names = sorted({*settings, *groups})
    matching = [f"{name}=" for name in names if name.startswith(key)]
    # Of many settings, the parts before the dot come first.
    parts = list(dict.fromkeys(re.sub(r"\.(?!$).*", ".", name) for name in matching))
    return matching if "." in key or len(parts) == 1 else parts


def _values(setting: Setting) -> list[str]:
    """Returns the values of a setting that can be listed."""
    if setting.key == "task":
        return envs.tasks()
    if setting.kind is bool:
        return ["true", "false"]
    return list(setting.choices or ()) if not setting.many else []
