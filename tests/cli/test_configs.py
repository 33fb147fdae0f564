"""The files under conf/ and the dataclasses of the settings say the same."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from agentic_transformer import config
from agentic_transformer.evaluation.conditions import baseline_condition
from agentic_transformer.settings import value_at
from agentic_transformer.validation import check_command
from experiments.benchmark import BenchmarkCommand
from experiments.cli import command_line
from experiments.cli.packages import CONF

COMMANDS = {
    "collect": config.CollectCommand,
    "convert": config.ConvertCommand,
    "train": config.TrainCommand,
    "evaluate": config.EvaluateCommand,
    "watch": config.WatchCommand,
    "export": config.ExportCommand,
    "plot": config.PlotCommand,
    "report": config.ReportCommand,
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
    "convert": {"to": "minari", "buffer": "x", "minari": "y-v0"},
    "table": {"sweep": "x"},
}


def composed(name, *words):
    required = [f"{key}={value}" for key, value in REQUIRED.get(name, {}).items()]
    line = command_line.read(name, COMMANDS[name], [*required, *words])
    return OmegaConf.to_object(line.compose(line.job_overrides[0]))


def groups(name):
    """The config groups of a command, as its file says, and their options."""
    path = CONF / f"{name}.yaml"
    entries = OmegaConf.load(path).defaults if path.exists() else []
    names = [group for entry in entries if not isinstance(entry, str) for group in entry]
    return {
        group: [option.stem for option in sorted((CONF / group.split("@")[0]).glob("*.yaml"))]
        for group in names
    }


CHOICES = [
    (name, f"{group}={option}")
    for name in COMMANDS
    for group, options in groups(name).items()
    for option in options
]


def test_every_config_is_a_command():
    assert {path.stem for path in CONF.glob("*.yaml")} <= set(COMMANDS)


def test_files_hold_only_what_differs():
    """A default stands in the dataclass alone: no file of a group repeats it."""
    kinds = {"agent": config.AgentConfig, "data": config.DataConfig, "model": config.ModelConfig}
    for group, kind in (kinds | {"mesh": config.MeshConfig}).items():
        for path in (CONF / group).glob("*.yaml"):
            values = OmegaConf.load(path)
            base = {"defaults"} & set(values)  # a file may undo what it starts from
            same = {key for key in set(values) - base if values[key] == getattr(kind(), key)}
            assert base or not same, (path, same)


@pytest.mark.parametrize("name", COMMANDS)
def test_defaults_do_not_drift(name):
    """What a command does by default is the same from the command line and from Python."""
    words = ["experiment=ascending"] if name == "quickstart" else []  # an experiment is its default
    differs = REQUIRED | {"quickstart": {"mesh": config.MeshConfig(ring=2, virtual_devices=2)}}
    default = COMMANDS[name](**differs.get(name, {}))
    assert dataclasses.asdict(composed(name, *words)) == dataclasses.asdict(default)


def test_the_quickstart_trains_the_agent_that_searches():
    """Its ring of two and its shorter evaluation make no other agent."""
    made, search = composed("quickstart"), composed("train", "experiment=search")
    assert (made.agent, made.train, made.data) == (search.agent, search.train, search.data)
    assert dataclasses.replace(made.model, attention="dense") == search.model
    assert (made.eval.temperature, made.eval.noise) == (search.eval.temperature, search.eval.noise)


@pytest.mark.parametrize(("name", "choice"), CHOICES)
def test_every_option_holds_allowed_values(name, choice):
    made = composed(name, choice)
    if name == "quickstart":  # which wants two different agents
        made.agent.name, made.baseline.name = "agent", "baseline"
    check_command(made)


@pytest.mark.slow
def test_agents_are_what_they_are_called():
    said = {
        name: composed("train", f"agent={name}").agent
        for name in (
            *("at", "at_last", "at_prefix", "at_search", "at_value"),
            *("dt", "bc", "bc10", "td3", "td3_bc", "iql", "cql", "crr"),
        )
    }
    assert all(agent.name == name for name, agent in said.items())
    assert (said["at"].target, said["at"].loss, said["at"].chain_length, said["at"].selection) == (
        "chain_max",
        "all",
        "uniform",
        "uniform",
    )
    assert dataclasses.replace(said["at_last"], name="at", loss="all") == said["at"]
    searched = dataclasses.replace(
        said["at"],
        name="at_search",
        chain_length="full",
        selection="search",
        selection_threshold=0.9,
    )
    assert said["at_search"] == searched
    valued = dataclasses.replace(said["at_value"], weighting="none", return_conditioning="return")
    assert dataclasses.replace(valued, name="at_prefix") == said["at_prefix"] != said["at_value"]
    assert (said["dt"].trajectories, said["dt"].loss, said["dt"].target) == (1, "all", "own")
    assert dataclasses.replace(said["bc"], name="dt", return_conditioning="return") == said["dt"]
    assert dataclasses.replace(said["bc10"], name="bc", top=1.0) == said["bc"]
    assert said["bc10"].top == 0.1
    assert (said["td3_bc"].learner, said["td3_bc"].trajectories) == ("td3_bc", 1)
    assert dataclasses.replace(said["td3"], name="td3_bc", learner="td3_bc") == said["td3_bc"]
    for name in ("iql", "cql", "crr"):
        assert dataclasses.replace(said[name], name="td3_bc", learner="td3_bc") == said["td3_bc"]
    for name, of in (("bc_told", "bc10"), ("td3_bc_told", "td3_bc"), ("iql_told", "iql")):
        told = composed("train", f"agent={name}").agent
        assert told == dataclasses.replace(said[of], name=name, told=True)
        assert baseline_condition(told) == name
    assert composed("quickstart").baseline == said["dt"]
    for name in ("dt", "bc", "bc10", "td3", "td3_bc", "iql", "cql", "crr"):
        assert baseline_condition(said[name]) == name


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
