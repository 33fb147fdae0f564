"""Reads a command line: Hydra's flags, overrides, and the settings that they make."""

from __future__ import annotations

import argparse
import itertools
import re
import typing
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from agentic_transformer.earlier_settings import RENAMED
from agentic_transformer.errors import listing, nearest, raise_config_error
from agentic_transformer.settings import lies_in, quote_text, settings_of, shell_words
from agentic_transformer.validation import check_command, check_given
from experiments.cli import overrides, resuming, run_folder
from experiments.cli.overrides import Assignment
from experiments.cli.packages import CONF

# Groups of the last version. Each had one option, which held the defaults.
FORMER_GROUPS = ("train", "eval", "td3_bc")
_ALLOWED = (
    "overrides such as train.steps=100, and the flags -m, --help, --help-all, --cfg job, --info"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise_config_error(message, _ALLOWED)


def _parse_flags(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns Hydra's flags with the overrides, and the flags that are none of Hydra's."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    modes = parser.add_mutually_exclusive_group()
    for names in (("--run", "-r"), ("--multirun", "-m"), ("--shell-completion", "-sc")):
        modes.add_argument(*names, action="store_true")
    modes.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    kinds = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    modes.add_argument("--info", "-i", nargs="?", const="all", choices=kinds)
    for names in (
        ("--help", "-h"),
        ("--help-all",),
        ("--hydra-help",),
        ("--version",),
        ("--resolve",),
    ):
        parser.add_argument(*names, action="store_true")
    for name, short in (("path", "-cp"), ("name", "-cn"), ("dir", "-cd")):
        parser.add_argument(f"--config-{name}", short)
    parser.add_argument("--package", "-p")
    return parser.parse_known_intermixed_args(argv)


def _refuse_flag(flag: str, argv: list[str], names: list[str]) -> NoReturn:
    """Raises a UserError that names the setting which an unknown flag may mean.

    Args:
        flag: such as `--seed` or `--seed=3`.
        argv: the command line; the word after the flag may be its value.
        names: of settings and config groups.
    """
    name, _, value = flag.lstrip("-").partition("=")
    value = value or next((word for one, word in itertools.pairwise(argv) if one == flag), "...")
    meant = nearest(name.replace("-", "_"), names)
    raise_config_error(f"unrecognized arguments: {flag}", _ALLOWED, meant and f"{meant}={value}")


@dataclass
class CommandLine:
    """Holds a checked command line."""

    command: type
    config_path: Path
    config_name: str
    search: list[str]
    """hydra.searchpath override, if --config-dir or --config-path is given."""
    multirun: bool
    takes_all: bool
    """Whether the command takes all values of a sweep at once."""
    help: str
    """"short", "all", or empty if no help is asked for."""
    groups: dict[str, list[str]]
    """Options of each config group of the command."""
    flags: list[str] = field(default_factory=list)
    """Hydra flags that are passed through instead of a run."""
    assignments: list[Assignment] = field(default_factory=list)

    @property
    def job_overrides(self) -> list[list[str]]:
        """Returns the overrides of each job.

        The last swept setting changes fastest, as in Hydra.
        """
        return list(map(list, itertools.product(*(one.words for one in self.assignments))))

    @property
    def defining_assignments(self) -> list[Assignment]:
        """Returns the assignments that decide what is done, not where or by which launcher."""
        free = (*run_folder.FOLDER_SETTINGS, "hydra")
        return [one for one in self.assignments if re.split("[./]", one.key)[0] not in free]

    def value(self, key: str, default: Any = None) -> Any:
        """Returns the first value that the command line gives a key."""
        return next((one.values[0] for one in self.assignments if one.key == key), default)

    def read_overrides(self, folder: Path) -> list[Assignment]:
        """Returns the overrides of the sweep in a folder, checked for this command."""
        return overrides.read(run_folder.read_overrides(folder), self.command, self.groups, True)

    def compose(self, words: list[str], with_hydra: bool = False) -> DictConfig:
        """Returns the config that overrides make, and Hydra's own with it if asked for.

        Raises:
            UserError: Hydra cannot compose it, or a config file is no YAML.
        """
        try:
            with initialize_config_dir(str(self.config_path), version_base="1.3"):
                words = [*self.search, *words]
                return compose(self.config_name, words, return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException) as error:
            text = " ".join(re.split("To append|Config search path", str(error))[0].split())
            added = next((word.lstrip("+") for word in words if word.startswith("+")), "")
            if now := _current_name(text):
                raise_config_error(text, now)
            _refuse_option(text)
            self._refuse_line_of_file(text)
            raise_config_error(text, added)
        except YAMLError as error:
            raise_config_error(f"a config file is no YAML: {' '.join(str(error).split())}")

    def _refuse_line_of_file(self, error: str) -> None:
        """Raises a UserError if an error of Hydra is about a setting in a config file."""
        form = r"In '(.+?)': \w+ raised while composing config: (.*) full_key: (\S+)"
        if not (found := re.match(form, error)):
            return
        place, reason, key = f"{found[1]}.yaml", found[2], found[3].partition("[")[0]
        known = settings_of(self.command)
        if key in known:
            raise_config_error(f"{place}: {key}: {reason}", known[key].allowed)
        if reason.startswith("Key ") and not lies_in(key, "hydra"):
            overrides.raise_unknown(key, place, [*known, *self.groups])

    def make_settings(self, words: list[str]) -> Any:
        """Returns the settings that overrides make; every value is checked.

        A run that is resumed by its folder has its own settings, except those given here.

        Raises:
            UserError: a value is missing, or not allowed.
        """
        try:
            made = OmegaConf.to_object(self.compose(words))
        except MissingMandatoryValue as error:
            setting = settings_of(self.command)[error.full_key]
            such = run_folder.newest(setting.key) or setting.example
            words = shell_words({setting.key: str(such)})
            allowed = f"{setting.key}=<{setting.allowed}>, such as {words}"
            raise_config_error(f"{setting.key} is not given", allowed)
        except OmegaConfBaseException as error:
            raise_config_error(" ".join(str(error).split()))
        if not isinstance(made, self.command):
            problem = f"{self.config_name}.yaml does not start from the command's settings"
            raise_config_error(problem, "defaults: [schema, _self_]")
        made = resuming.resumed_settings(made, words)
        if not getattr(made, "resume", False):  # a run goes on with what it was started with
            check_given(made, resuming.given_keys(words))
        check_command(made)
        return made


def read(name: str, command: type, argv: list[str], takes_all: bool = False) -> CommandLine:
    """Reads and checks a command line.

    Args:
        name: of the command, and of its primary config.
        command: dataclass of its settings.
        argv: the command line, without the program.
        takes_all: whether the command takes all values of a sweep at once: they need no -m then.

    Raises:
        UserError: a flag or an override is wrong.
    """
    given, unknown = _parse_flags(argv)
    if takes_all and given.multirun:
        problem = "-m: this command takes several values together"
        raise_config_error(problem, "the same words without -m")
    path = Path(given.config_path or CONF).absolute()
    config_name = (given.config_name or name).removesuffix(".yaml")
    if given.config_name and not (path / f"{config_name}.yaml").is_file():
        problem = f"--config-name {config_name}: no primary config {config_name!r} is in {path}"
        raise_config_error(problem, "a config of the folder that --config-path names")
    groups = groups_of(config_name, [path, Path(given.config_dir or CONF), CONF])
    if unknown:
        _refuse_flag(unknown[0], argv, [*settings_of(command), *groups])
    several = given.multirun or takes_all
    checked = not given.shell_completion  # what is completed is not whole yet
    line = CommandLine(
        command=command,
        config_path=path,
        config_name=config_name,
        search=_search_path(given),
        multirun=given.multirun,
        takes_all=takes_all,
        help="all" if given.help_all else "short" if given.help else "",
        groups=groups,
        flags=_hydra_flags(given),
        assignments=overrides.read(given.overrides, command, groups, several) if checked else [],
    )
    has_file = bool(given.config_name) or (CONF / f"{name}.yaml").exists()
    _register(command, name, has_file=has_file)
    return line


def _hydra_flags(given: argparse.Namespace) -> list[str]:
    """Returns the flags that Hydra acts on itself.

    Raises:
        UserError: a flag is given without the flag that it belongs to.
    """
    if (given.resolve or given.package) and not given.cfg:
        flag = "--resolve" if given.resolve else f"--package {given.package}"
        raise_config_error(f"{flag} shows nothing alone", f"--cfg job {flag}")
    # What is to be completed, or install=<shell>, stands beside the other words of Hydra.
    flags = given.overrides if given.shell_completion else []
    for flag in ("cfg", "info", "package", "resolve", "hydra_help", "version", "shell_completion"):
        if value := getattr(given, flag):
            flags += [f"--{flag.replace('_', '-')}", *([] if value is True else [value])]
    return flags


def _search_path(given: argparse.Namespace) -> list[str]:
    """Returns the override that adds the user's folder of configs, or ours to the user's."""
    for folder in (given.config_path, given.config_dir):
        if folder and not Path(folder).is_dir():
            raise_config_error(f"{folder}: no such folder of configs", "a folder")
    folders = [given.config_dir, CONF if given.config_path else None]
    urls = [quote_text(f"file://{Path(folder).absolute()}") for folder in folders if folder]
    return [f"hydra.searchpath=[{','.join(urls)}]"] if urls else []


def groups_of(config_name: str, folders: list[Path]) -> dict[str, list[str]]:
    """Returns the config groups in the defaults list of a primary config, and their options.

    Args:
        config_name: name of the primary config.
        folders: folders of configs; the first holds the primary config.
    """
    primary = folders[0] / f"{config_name}.yaml"
    defaults = OmegaConf.load(primary).get("defaults", []) if primary.exists() else []
    entries = [entry for entry in defaults if isinstance(entry, DictConfig)]
    names = {str(group).partition("@")[0] for entry in entries for group in entry}
    return {name: sorted(_options(name, folders)) for name in names}


def _options(group: str, folders: list[Path]) -> set[str]:
    """Returns the options of a config group; one in a folder of its own is `<folder>/<option>`."""
    found = (
        (folder / group, path) for folder in folders for path in (folder / group).rglob("*.yaml")
    )
    return {path.relative_to(place).with_suffix("").as_posix() for place, path in found}


def _current_name(error: str) -> str:
    """Returns what a config file should say now, if an error of Hydra is about an earlier name."""
    if (key := re.search(r"Key '(\w+)' not in '(\w+)Config'", error)) and (
        name := RENAMED.get(key[2].lower(), {}).get(key[1])
    ):
        return f"{name}, as {key[1]} is called now"
    if (group := re.search(r"Could not override '(\w+)'", error)) and group[1] in FORMER_GROUPS:
        return f"no line for {group[1]}: its defaults are in agentic_transformer/config.py"
    return ""


def _refuse_option(error: str) -> None:
    """Raises a UserError if an error of Hydra is about an option that its group does not have."""
    found = re.match(r"(.*Could not find '(.+)/([^/]+)') Available options in '\2': (.*)", error)
    if found:
        problem, group, option, words = found.groups()
        options = words.split()
        allowed = listing(options)
        if group == "hydra/launcher" and "submitit_slurm" not in options:
            allowed += "; make install EXTRAS=slurm adds submitit_slurm and submitit_local"
        raise_config_error(problem, allowed, nearest(option, options))


def _register(command: type, name: str, has_file: bool) -> None:
    """Registers the command's dataclass with Hydra as the schema of the files in conf/.

    Each group starts from the group class's own defaults; a group file lists only its differences.
    A command without a file uses the schema as its config.
    """
    kinds = typing.get_type_hints(command)
    node = command(**{key: kind() for key, kind in kinds.items() if is_dataclass(kind)})
    ConfigStore.instance().store(name="schema" if has_file else name, node=node)
