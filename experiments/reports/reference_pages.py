"""Writes the documentation's pages on settings and experiments, from the code that defines them.

`python -m experiments.reports.reference_pages` writes docs/configuration.md and
docs/experiments.md; a test holds that they are up to date.
"""

from __future__ import annotations

import inspect
import textwrap
import typing
from dataclasses import is_dataclass

from agentic_transformer import config
from agentic_transformer.settings import Setting, format_value, settings_of, value_at
from experiments.cli import command_line
from experiments.cli.packages import CONF
from experiments.reports.variants_table import markdown

COMMANDS = {
    name.removesuffix("Command").lower(): kind
    for name, kind in vars(config).items()
    if name.endswith("Command")
}
_CONFIGURATION = """# Configuration

Every setting of every command. This page is generated from `agentic_transformer/config.py`. A
setting is written `group.name=value` on the command line.
`python -m experiments.<command> --help-all` prints the same, with the values that the command line
makes. Files of [conf](../conf) set several at once; the [experiments](experiments.md) set whole
runs.
"""
_EXPERIMENTS = """# Experiments

An experiment is a file of [conf/experiment](../conf/experiment), used as `experiment=<name>`. This
page is generated from these files. Times are of two CPU cores. The outcomes are on the page of
[results](results.md).
"""
_TIME = "# Time on two CPU cores:"


def configuration_page() -> str:
    """Returns the page of all settings: groups first, then what is a command's own."""
    parts = [_CONFIGURATION, "## Commands\n"]
    parts.append(markdown(["command", "what it does", "groups"], map(_command_row, COMMANDS)))
    groups = {}
    for command, kind in COMMANDS.items():
        for name, hint in typing.get_type_hints(kind).items():
            if is_dataclass(hint):
                groups.setdefault(hint, (name, command))
    titles = set()
    for kind, (name, command) in groups.items():
        title = f"{name} of experiments.{command}" if name in titles else name
        titles.add(title)
        found = settings_of(kind, f"{name}.")
        parts.append(_section(title, kind, kind(), found, prefix=f"{name}."))
    for name, kind in COMMANDS.items():
        own = {key: one for key, one in settings_of(kind).items() if "." not in key}
        if own:
            parts.append(_section(f"experiments.{name}", kind, kind(), own))
    return "\n".join(parts)


def experiments_page() -> str:
    """Returns the page of all experiments: a table of their settings, then what each is."""
    names = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
    columns = ["experiment", "task", "data", "agent", "model", "training", "evaluation", "time"]
    parts = [_EXPERIMENTS, markdown(columns, map(_experiment_row, names))]
    for name in names:
        text, commands, _ = _header(name)
        parts.append(f"## {name}\n\n{text}\n")
        if commands:
            parts.append(f"```\n{commands}\n```\n")
    return "\n".join(parts)


def _command_row(name: str) -> list[str]:
    """Returns a row of the table of commands."""
    kind = COMMANDS[name]
    groups = [key for key, hint in typing.get_type_hints(kind).items() if is_dataclass(hint)]
    first_line = inspect.getdoc(kind).splitlines()[0]
    return [f"`experiments.{name}`", first_line, ", ".join(groups)]


def _section(
    title: str, kind: type, values: object, settings: dict[str, Setting], prefix: str = ""
) -> str:
    """Returns a heading, a dataclass's description, and the table of its settings."""
    rows = [
        [
            f"`{key}`",
            _shown(value_at(values, key.removeprefix(prefix))),
            _with_example(setting),
            _in_html(setting.allowed),
        ]
        for key, setting in settings.items()
    ]
    described = _in_html(" ".join(inspect.getdoc(kind).split()))
    table = markdown(["setting", "default", "meaning", "allowed"], rows)
    return f"## {title}\n\n{textwrap.fill(described, 100)}\n\n{table}"


def _experiment_row(name: str) -> list[str]:
    """Returns a row of the table of experiments."""
    line = command_line.read("train", config.TrainCommand, [f"experiment={name}"])
    made = line.make_settings(line.job_overrides[0])
    data, agent, model, train, evaluation = made.data, made.agent, made.model, made.train, made.eval
    horizon = "all steps" if data.horizon is None else f"{data.horizon} steps"
    return [
        f"[{name}](#{name})",
        made.task,
        f"{data.algo}, {data.episodes} episodes, {horizon}, action repeat {data.action_repeat}",
        f"{agent.name}, {agent.trajectories} trajectories",
        f"{model.layers} layers of {model.width}, {model.heads} heads, {model.attention}",
        f"{train.steps} steps of {train.batch} rows, rate {train.learning_rate:g}",
        f"{evaluation.tasks} tasks, n to {max(evaluation.trajectories)}, "
        f"temperature {evaluation.temperature:g}, noise {evaluation.noise:g}",
        _header(name)[2],
    ]


def _header(name: str) -> tuple[str, str, str]:
    """Returns the text, commands and time in the comment that opens an experiment's file."""
    text, commands, time = [], [], "not measured"
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    for line in lines[1:]:  # the first is Hydra's package line
        if not line.startswith("#"):
            break
        if line.startswith(_TIME):
            time = line.removeprefix(_TIME).strip()
        else:
            (commands if line.startswith("#   ") else text).append(line.lstrip("#").strip())
    return textwrap.fill(" ".join(filter(None, text)), 100), "\n".join(commands), time


def _shown(value: object) -> str:
    """Returns a default as it is written on the command line."""
    return "required" if value == "???" else f"`{format_value(value)}`"


def _with_example(setting: Setting) -> str:
    """Returns what a setting means, with an example if it has one."""
    meaning = _in_html(setting.meaning)
    return f"{meaning} Example: `{setting.example}`." if setting.example else meaning


def _in_html(text: str) -> str:
    """Returns text in which nothing is taken for a tag."""
    return text.replace("<", "&lt;")


def main() -> None:
    """Writes both pages."""
    for name, page in PAGES.items():
        (CONF.parent / "docs" / name).write_text(page())


PAGES = {"configuration.md": configuration_page, "experiments.md": experiments_page}

if __name__ == "__main__":
    main()
