"""The files under conf/ and the dataclasses of the settings say the same."""

import dataclasses

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from agentic_transformer import config
from experiments.benchmark import BenchmarkCommand
from experiments.cli import overrides
from experiments.cli.app import CONF
from experiments.cli.settings import check_command, settings, value_at

COMMANDS = {
    "collect": config.CollectCommand,
    "train": config.TrainCommand,
    "evaluate": config.EvaluateCommand,
    "export": config.ExportCommand,
    "plot": config.PlotCommand,
    "quickstart": config.QuickstartCommand,
    "plan": config.PlanCommand,
    "download": config.DownloadCommand,
    "verify": config.VerifyCommand,
    "table": config.TableCommand,
    "benchmark": BenchmarkCommand,
}
REQUIRED = {
    "evaluate": {"run": "x"},
    "export": {"run": "x", "out": "y"},
    "download": {"domain": "walker", "algo": "rnd"},
    "verify": {"path": "x"},
    "table": {"sweep": "x"},
}
CHOICES = [
    (name, f"{group}={option}")
    for name in COMMANDS
    for group, options in overrides.groups(CONF, name).items()
    for option in options
]


def composed(name, *words):
    ConfigStore.instance().store(name="schema", node=COMMANDS[name])
    required = [f"{key}={value}" for key, value in REQUIRED.get(name, {}).items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(name, [*required, *words]))


def test_every_config_is_here():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_do_not_drift(name):
    """What a command does by default is the same from the command line and from Python."""
    made = composed(name)
    differs = REQUIRED | {"quickstart": {"mesh": config.MeshConfig(ring=2, virtual_devices=2)}}
    default = COMMANDS[name](**differs.get(name, {}))
    assert dataclasses.asdict(made) == dataclasses.asdict(default)


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_every_option_holds_allowed_values(name, choice):
    made = composed(name, choice)
    if name == "quickstart":  # which wants two different agents
        made.agent.name, made.baseline.name = "agent", "baseline"
    check_command(made)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_is_explained(name):
    """Each setting has a line with a comment under conf/, or a name that says all."""
    text = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
    for key in settings(COMMANDS[name]):
        assert f"\n{key.rpartition('.')[2]}: " in text, key


def test_agents_are_what_they_are_called():
    said = {
        name: composed("train", f"agent={name}").agent
        for name in ("at", "at_last", "at_prefix", "at_search", "dt", "bc", "bc10", "td3_bc")
    }
    assert all(agent.name == name for name, agent in said.items())
    assert (said["at"].target, said["at"].loss, said["at"].length, said["at"].selection) == (
        "chain_max",
        "all",
        "uniform",
        "uniform",
    )
    assert dataclasses.replace(said["at_last"], name="at", loss="all") == said["at"]
    searched = dataclasses.replace(
        said["at"], name="at_search", length="full", selection="search", good=0.9
    )
    assert said["at_search"] == searched
    assert (said["dt"].trajectories, said["dt"].loss, said["dt"].target) == (1, "all", "own")
    assert dataclasses.replace(said["bc"], name="dt", return_conditioning="return") == said["dt"]
    assert dataclasses.replace(said["bc10"], name="bc", top=1.0) == said["bc"]
    assert said["bc10"].top == 0.1
    assert (said["td3_bc"].learner, said["td3_bc"].trajectories) == ("td3_bc", 1)
    assert composed("quickstart").baseline == said["dt"]


def test_public_keys():
    words = {
        "task": "walker_walk",
        "seed": 3,
        "data.episodes": 7,
        "train.steps": 5,
        "model.width": 8,
        "model.layers": 1,
        "mesh.ring": 2,
        "mesh.virtual_devices": 4,
        "eval.trajectories": [1, 2],
        "resume": True,
    }
    made = composed(
        "train",
        "experiment=quickstart",
        *(f"{key}={str(value).replace(' ', '')}" for key, value in words.items()),
    )
    assert {key: value_at(made, key) for key in words} == words


def test_an_override_wins_over_an_experiment():
    made = composed("train", "experiment=quickstart", "agent=dt", "train.steps=5")
    assert (made.task, made.agent.name, made.train.steps) == ("point_mass_goal", "dt", 5)
