"""Help shows every setting with its meaning; Hydra's own flags work; earlier names are read."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from agentic_transformer.settings import settings_of
from experiments.cli import command_line
from experiments.cli.help import FIRST, help_text, short_help_text
from tests.cli.conftest import ROOT
from tests.cli.test_configs import COMMANDS

OLD_NAMES = {
    "agent.condition": ("agent.return_conditioning", "none"),
    "agent.good": ("agent.selection_threshold", 0.75),
    "agent.length": ("agent.chain_length", "uniform"),
    "model.rolled": ("model.scan_layers", True),
    "model.compute": ("model.dtype", "bfloat16"),
    "train.accumulate": ("train.grad_accum_steps", 2),
    "train.clip": ("train.grad_clip_norm", 0.5),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_has_a_meaning(name):
    for key, setting in settings_of(COMMANDS[name]).items():
        assert setting.meaning.endswith(".") and len(setting.meaning.split()) >= 2, key


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_setting_of_the_command_and_no_other(name):
    command = COMMANDS[name]
    text = help_text(name, command_line.read(name, command, ["--help"]))
    words = " ".join(text.split())
    for key, setting in settings_of(command).items():
        assert f"\n  {key}=" in text and setting.allowed in words, key
        assert " ".join(setting.meaning.split()) in words, key
        if setting.example:
            assert f"Example: {key}={setting.example}" in words, key
    shown = {line.split("=")[0].strip() for line in text.splitlines() if line.startswith("  ")}
    groups = {key.partition(".")[0] for key in settings_of(command) if "." in key}
    others = {"agent", "model", "train", "td3_bc", "td3", "eval", "mesh", "data"} - groups
    assert not {key for key in shown if key.partition(".")[0] in others}
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("name", COMMANDS)
def test_short_help_begins_with_what_most_people_change(name):
    command = COMMANDS[name]
    line = command_line.read(name, command, ["--help"])
    text, known = short_help_text(name, line), settings_of(command)
    assert all(f"\n  {key}=" in text for key in FIRST if key in known)
    assert text.count("(") == text.count(")")  # no meaning is cut within a bracket
    assert text == help_text(name, line) or f"--help-all shows all {len(known)} settings" in text


def test_short_help_of_plan_names_what_is_planned():
    text = short_help_text("plan", command_line.read("plan", COMMANDS["plan"], ["--help"]))
    assert all(f"\n  {key}=" in text for key in ("topology", "trajectories", "solve", "compile"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_value_that_is_allowed(name):
    """A value has an example where its default shows none."""
    known = settings_of(COMMANDS[name])
    for key, setting in known.items():
        if setting.example:
            words = [f"{key}={setting.example}"]
            (one,) = command_line.overrides.read(words, COMMANDS[name], {}, multirun=False)
            known[key].check(one.values[0])
        elif setting.optional:
            raise AssertionError(key)


def test_help_shows_what_the_words_beside_it_make(forked):
    short = forked("train", "model=paper", "train.steps=7", "--help")
    assert short.code == 0 and len(short.stdout.splitlines()) <= 30
    assert "\n  train.steps=7 " in short.stdout and "--help-all" in short.stdout
    shown = forked("train", "model=paper", "train.steps=7", "--help-all")
    assert shown.code == 0 and not shown.calls
    assert "\n  model.width=128\n" in shown.stdout and "\n  train.steps=7\n" in shown.stdout
    assert "model=paper (at_350m" in shown.stdout
    assert "\nexperiment (ascending, " in shown.stdout and "null (" not in shown.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cfg", "job"], "width: 64"),
        (["--cfg", "job", "--package", "model", "model.width=8"], "width: 8"),
        (["--cfg", "hydra"], "launcher:"),
        (["-c", "job", "--resolve"], "steps: 2000"),
        (["--info", "defaults"], "schema"),
        (["--hydra-help"], "Hydra"),
        (["--version"], "Hydra"),
    ],
)
def test_flags_of_hydra_show_something_and_leave_nothing(words, says, forked):
    shown = forked("train", *words)
    assert shown.code == 0 and says in shown.stdout, shown.stderr
    assert not shown.calls and not list(forked.folder.iterdir())


def test_a_folder_of_configs_of_ones_own(forked):
    mine = forked.folder / "my [conf]"
    (mine / "model").mkdir(parents=True)
    (mine / "model" / "tiny.yaml").write_text("width: 8\n")
    (mine / "mine.yaml").write_text(
        "defaults:\n  - schema\n  - model: tiny\n  - agent: dt\n  - _self_\ntask: walker_walk\n"
    )
    added = forked("train", "run=a", "--config-dir", str(mine), "model=tiny")
    assert added.code == 0 and added.calls[0]["config"]["model"]["width"] == 8, added.stderr
    swept = forked("train", "-m", "run=s", "-cd", "my [conf]", "model=tiny,paper")
    assert [call["config"]["model"]["width"] for call in swept.calls] == [8, 128], swept.stderr
    own = forked("train", "run=b", "--config-path", str(mine), "--config-name", "mine", "seed=3")
    (call,) = own.calls
    assert (call["config"]["task"], call["config"]["agent"]["name"]) == ("walker_walk", "dt")
    assert (call["config"]["model"]["width"], call["config"]["seed"]) == (8, 3)
    (mine / "untyped.yaml").write_text("seed: 3\n")
    bad = forked("train", "--config-path", str(mine), "--config-name", "untyped")
    assert bad.code == 2 and "defaults: [schema, _self_]" in bad.stderr


def test_an_option_in_a_folder_of_its_group(forked):
    place = forked.folder / "cfg" / "agent" / "mine"
    place.mkdir(parents=True)
    (place / "short.yaml").write_text("trajectories: 3\n")
    done = forked("train", "--config-dir", "cfg", "agent=mine/short")
    assert done.code == 0 and done.calls[0]["config"]["agent"]["trajectories"] == 3, done.stderr
    bad = forked("train", "--config-dir", "cfg", "agent=mine/shor")
    assert bad.code == 2 and "nearest: mine/short" in bad.stderr


@pytest.mark.parametrize("more", [[], ["-m", "seed=0,1"]])
def test_a_command_goes_without_the_experiment_that_is_its_default(more, forked):
    done = forked("quickstart", "~experiment", *more)
    assert done.code == 0 and done.calls, done.stderr
    assert {call["config"]["train"]["steps"] for call in done.calls} == {2000}


@pytest.mark.parametrize("old", OLD_NAMES)
def test_an_earlier_name_is_read_with_a_warning(old, forked):
    new, value = OLD_NAMES[old]
    group, _, name = new.partition(".")
    done = forked("train", f"{old}={str(value).lower()}", "run=r", does={"all": "crash"})
    assert done.calls[0]["config"][group][name] == value
    assert f"warning: command line: {old} is now called {new}\n" in done.stderr
    config = OmegaConf.load(forked.folder / "r" / "config.yaml")
    assert config[group][name] == value
    config[group][old.partition(".")[2]] = config[group].pop(name)  # as an earlier version wrote it
    OmegaConf.save(config, forked.folder / "r" / "config.yaml")
    again = forked("train", f"{new}={str(value).lower()}", "run=r", "resume=true")
    assert again.code == 0 and again.calls, again.stderr
    assert again.stderr == f"warning: r/config.yaml: {old} is now called {new}\n"


def test_a_sweep_of_an_earlier_version_goes_on(forked):
    forked("train", "-m", "run=s", "model.scan_layers=true,false", does={"all": "crash"})
    words = (forked.folder / "s" / "overrides.yaml").read_text()
    (forked.folder / "s" / "overrides.yaml").write_text(words.replace("scan_layers", "rolled"))
    again = forked("train", "-m", "run=s", "model.rolled=false,true", "resume=true")
    assert again.code == 0 and len(again.calls) == 2, again.stderr


@pytest.mark.parametrize("text", ["agent: null", "model: 3", "agent: [1]", "nothing here"])
def test_a_damaged_config_is_told_in_a_line_and_passed_over_by_resume(forked, text):
    run = forked.folder / "runs" / "point_mass_goal" / "x"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(text)
    (run / "status.json").write_text('{"state": "running", "command": "train"}')
    resumed = forked("train", "resume=true")
    assert resumed.code == 2 and "no unfinished run" in resumed.stderr, resumed.stderr
    asked = forked("evaluate", f"run={run}")
    assert asked.code == 2 and len(asked.stderr.splitlines()) <= 3, asked.stderr
    assert "config.yaml" in asked.stderr


@pytest.mark.parametrize("flags", [["--help"], ["--info", "all"]])
def test_a_reader_that_has_enough_ends_the_output_quietly(flags):
    line = [sys.executable, "-m", "experiments.train", *flags]
    with subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
