"""Finds the commands in the shell blocks of a page, and makes them small enough to be run."""

import re
import shlex
from contextlib import contextmanager
from unittest.mock import patch

import gymnasium

from agentic_transformer.validation import WITHOUT_CONTEXT
from envs.family_table import FAMILIES

# What a reader fills in, and what `fill_in` takes for it.
_PLACEHOLDERS = {r"\[<[^\]]*\]": "[GIVEN]", r"<sweep[^>]*>": "SWEEP", r"<[^>]*>": "GIVEN"}


def fill_in(word, run):
    """Returns a word of a command with the folder of a run, or of its sweep, in its place."""
    return word.replace("GIVEN", str(run)).replace("SWEEP", str(run.parent))


@contextmanager
def registrations_taken_back():
    """Undoes at its end what programs register, which other tests would find."""
    with patch.dict(gymnasium.registry), patch.dict(FAMILIES):
        yield


def programs(page):
    """Returns the Python programs of a page by their file, which their first line names."""
    return dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", page.read_text(), re.S | re.M))


def _parse(line):
    """Returns the name and the words of a line that calls a command or a program, else None."""
    if program := re.fullmatch(r"python (\w+\.py)", line):
        return (program[1],)
    found = re.search(r"python -m experiments\.(\w+)(.*)", line)
    if not found:
        return None
    given = found[2]
    for pattern, value in _PLACEHOLDERS.items():
        given = re.sub(pattern, value, given)
    return found[1], *shlex.split(given, comments=True)


# What makes a command small; it takes the place of words with the same keys.
SMALL = {
    "collect": ["data.episodes=40"],
    "train": [
        "data.episodes=20",
        "data.horizon=8",
        "agent.trajectories=2",
        "model.width=8",
        "model.layers=1",
        "train.steps=2",
        "train.batch=2",
    ],
    "evaluate": ["eval.tasks=2", "eval.trajectories=[1,2]", "eval.video=false"],
    "plan": ["compile=nothing"],
}
# Commands of pages that are only checked, by a word of theirs, and what tests them.
ONLY_CHECKED = {
    "completion": "tests/cli/test_completion.py",
    "download": "tests/datasets/test_download.py, with a server of its own",
    "mesh.coordinator": "tests/multidevice/test_processes.py",
    "hydra/launcher": "tests/cli/test_sweeps.py",
    "srun": "tests/training/test_distributed.py",
}


def small_commands(page):
    """Returns the commands of a page's shell blocks that can be run, made small, in their order."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M)
    lines = [line for language, text in blocks if not language for line in text.splitlines()]
    runnable = [line for line in lines if not any(word in line for word in ONLY_CHECKED)]
    return [_small(*parsed) for parsed in map(_parse, runnable) if parsed]


def _small(name, *words):
    """Returns a command with settings that make it small, and at most two devices and seeds."""
    more = list(SMALL.get(name, []))
    agents = {name for word in words for name in _values_of(word, "agent")}
    if agents & {*WITHOUT_CONTEXT}:  # they have no context
        more = [re.sub("^agent.trajectories=2$", "agent.trajectories=1", word) for word in more]
    if name == "collect" and "data.algo=td3" in words:
        more += ["td3.episodes=20"]  # a round of its learner; rounds make up data.episodes
    if any(word.startswith("mesh.ring=") for word in words):
        more += ["mesh.ring=2", "mesh.virtual_devices=2"]
    keys = {word.partition("=")[0] for word in more}
    if name == "train" and "--cfg" in words:
        keys, more = set(), []
    kept = [re.sub(r"^(seed=\d+,\d+),.*", r"\1", word) for word in words]
    return name, *(word for word in kept if word.partition("=")[0] not in keys), *more


def _values_of(word, key):
    """Returns the values that a word gives to a setting; none if it is of another one."""
    name, _, values = word.partition("=")
    return values.split(",") if name == key else []
