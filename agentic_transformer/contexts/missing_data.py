"""Suggests commands that make or download the data that a run lacks."""

from __future__ import annotations

from pathlib import Path

import envs
from agentic_transformer.config import DataConfig, TD3Config
from agentic_transformer.settings import shell_words
from datasets import buffer_folder, download
from datasets.collectors import collectors
from envs.registry import has_parameters

_COLLECTORS = ("pd", "mppi", "random")
"""Collectors in the order in which they are suggested: policies that reach goals before noise."""


def ways_to_get(task: str, config: DataConfig) -> list[str]:
    """Returns lines that each suggest a command, and the data.algo that then reads its data.

    Args:
        task: the task whose data are missing.
        config: the data that were asked for.
    """
    domain, names = envs.task(task).domain, [*collectors(task)]
    if has_parameters(envs.task(task)):
        names.append("td3")  # of agentic_transformer.online
    downloadable = domain in download.DOMAINS and config.algo in download.ALGORITHMS
    ways = []
    if config.algo in names or not downloadable:
        first = next(name for name in _COLLECTORS if name in names)
        algo = config.algo if config.algo in names else first
        ways.append(f"  make them with `{_collect_command(task, config, algo)}`")
        ways[-1] += _change_of_algo(algo, config)
        if algo == "mppi" and config.episodes == DataConfig().episodes:
            ways[-1] += "; planning so many episodes can take hours: data.episodes=240 takes fewer"
    if domain in download.DOMAINS:
        algo = config.algo if downloadable else "rnd"
        root = {"root": config.root} if config.root != DataConfig().root else {}
        words = _words({"domain": domain, "algo": algo} | root)
        ways.append(f"  download ExoRL's with `python -m experiments.download {words}`")
        ways[-1] += _change_of_algo(algo, config)
    return ways


def other_root(task: str, config: DataConfig) -> str | None:
    """Returns another data.root under which episodes of the domain and data.algo lie, if one does.

    It is looked for in the default root, in the folders there, and in the parent of `config.root`.
    """
    asked, usual = Path(config.root), Path(DataConfig().root)
    for root in (usual, asked.parent, *sorted(usual.glob("*"))):
        buffer = buffer_folder(root, envs.task(task).domain, config.algo)
        if root != asked and any(buffer.glob("*.npz")):
            return str(root)
    return None


def _change_of_algo(algo: str, config: DataConfig) -> str:
    return f" and give data.algo={algo} here too" if algo != config.algo else ""


def _collect_command(task: str, config: DataConfig, algo: str) -> str:
    """Returns the command that collects the data, with the settings that are not the defaults."""
    wanted = vars(config) | {"algo": algo}
    if algo == "td3":
        wanted |= _whole_rounds(task, config)
    keys = ("root", "algo", "episodes", "seed", "action_repeat", "length")
    changed = {
        f"data.{key}": wanted[key] for key in keys if wanted[key] != getattr(DataConfig(), key)
    }
    return f"python -m experiments.collect {_words({'task': task} | changed)}"


def _whole_rounds(task: str, config: DataConfig) -> dict[str, int]:
    """Returns how many episodes td3 collects, at least as many as asked for, in whole rounds.

    Where an action would be held beyond the end of an episode, a shorter length is given too.
    """
    of_round, held = TD3Config().episodes, config.action_repeat
    length = config.length or envs.spec(task).length
    shorter = {"length": length - length % held} if length % held else {}
    return {"episodes": -(-config.episodes // of_round) * of_round} | shorter


def _words(values: dict[str, str | int]) -> str:
    """Writes settings as the words of a shell's command line."""
    return shell_words({key: str(value) for key, value in values.items()})
