"""A learner in a user's own module works with every command; what is wrong with it is told in a few
lines before data are read."""

import subprocess
import sys

import pandas as pd
import pytest

from agentic_transformer import load, train
from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    ExportCommand,
    TD3BCConfig,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.errors import UserError
from agentic_transformer.evaluation.conditions import baseline_condition
from agentic_transformer.evaluation.evaluate import evaluate
from experiments import export
from experiments.reports.presentation import present
from tests.processes import ROOT, environment
from tests.small_agents import TASK, labelled

LINEAR = "tests.linear_learner:LINEAR"
DATA = {"episodes": 8, "tasks": 2}
WRONG = """
from agentic_transformer.learners import LearnerKind

class Learner: ...
class Agent: ...

MISSPELT = LearnerKind("wrong:Learnr", "wrong:Agent")
ACTS_BY_NOTHING = LearnerKind("wrong:Learner", "wrong:NUMBER")
NO_COLON = LearnerKind("wrong.Learner", "wrong:Agent")
SHAPED = LearnerKind("wrong:Learner", "wrong:Agent", shape=("steps", "td3_bc.witdh"))
NUMBER = 3
"""
FAULTS = [
    (
        "linear",
        "agent.learner=linear: unknown\n"
        "  allowed: cql, crr, iql, td3, td3_bc, transformer, <module>:<NAME>",
    ),
    (
        "wrog:MISSPELT",
        "agent.learner=wrog:MISSPELT: there is no module wrog\n"
        "  allowed: a module in the folder that you start in, or of an installed package\n"
        "  nearest: wrong:MISSPELT",
    ),
    (
        "wrong.more:MISSPELT",
        "agent.learner=wrong.more:MISSPELT: there is no module wrong.more\n  allowed: a module in ",
    ),
    (
        "lacking:LINEAR",
        "agent.learner=lacking:LINEAR: module lacking cannot be imported: "
        "No module named 'no_such_package'",
    ),
    (
        "wrong:MISPELT",
        "agent.learner=wrong:MISPELT: MISPELT of module wrong is not there\n"
        "  allowed: ACTS_BY_NOTHING, MISSPELT, NO_COLON, SHAPED\n  nearest: MISSPELT",
    ),
    (
        "wrong:SHAPED",
        "shape of agent.learner=wrong:SHAPED: 'td3_bc.witdh' is unknown\n"
        "  allowed: keys of an AgentSpec, such as td3_bc.width\n  nearest: td3_bc.width",
    ),
    (
        "wrong:NUMBER",
        "agent.learner=wrong:NUMBER: NUMBER of module wrong is no LearnerKind\n  allowed: ACTS_BY_",
    ),
    (
        "lacking_all:X",
        "X of module lacking_all is not there\n  allowed: a LearnerKind, and the module has none",
    ),
    (
        "wrong:MISSPELT",
        "trains of agent.learner=wrong:MISSPELT: Learnr of module wrong is not there\n"
        "  allowed: Agent, Learner, LearnerKind\n  nearest: Learner",
    ),
    (
        "wrong:ACTS_BY_NOTHING",
        "acts of agent.learner=wrong:ACTS_BY_NOTHING: NUMBER of module wrong is no class",
    ),
    (
        "wrong:NO_COLON",
        "trains of agent.learner=wrong:NO_COLON: 'wrong.Learner' is not of the form <module>:<NAME",
    ),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a user starts in, with modules that are wrong."""
    modules = {"wrong": WRONG, "lacking": "import no_such_package", "lacking_all": ""}
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("learner", "says"), FAULTS)
def test_what_is_wrong_with_a_learner_is_told_before_data_are_read(learner, says, folder):
    config = TrainCommand(task=TASK, agent=AgentConfig(learner=learner))  # there are no data
    with pytest.raises(UserError) as told:
        train(config, folder / "run")
    assert says in str(told.value) and len(str(told.value).splitlines()) <= 3
    assert not (folder / "run").exists()


@pytest.fixture
def trained(tmp_path):
    """A run of the linear learner that is told the task; it went on once."""
    labelled(tmp_path, **DATA)
    config = TrainCommand(
        task=TASK,
        data=DataConfig(root=str(tmp_path), **DATA),
        agent=AgentConfig(name="linear", learner=LINEAR, trajectories=1, told=True),
        td3_bc=TD3BCConfig(batch=8),
        train=TrainConfig(steps=2, log_every=1),
        eval=EvalConfig(tasks=2, trajectories=[1, 2], video=False),
    )
    run = tmp_path / "run"
    assert int(train(config, run).step) == 2
    config.train.steps = 4
    assert int(train(config, run).step) == 4
    return config, run


def test_a_run_of_ones_own_learner_goes_on_and_is_loaded_exported_and_evaluated(trained, tmp_path):
    config, run = trained
    export.main(ExportCommand(run=str(run), out=str(tmp_path / "copy")), run)
    for place in (run, tmp_path / "copy"):
        agent = load(place)
        assert type(agent).__name__ == "LinearAgent" and agent.spec.agent.learner == LINEAR
    assert baseline_condition(config.agent) == "learner_told"
    results = evaluate(EvaluateCommand(run=str(run), eval=config.eval), run, config)
    assert set(pd.read_csv(results / "records.csv")["condition"]) == {"learner_told"}


def test_a_run_whose_module_is_gone_says_so(trained, monkeypatch):
    _, run = trained
    monkeypatch.setitem(sys.modules, "tests.linear_learner", None)  # as Python marks what is gone
    with pytest.raises(UserError, match=f"^agent.learner={LINEAR}: there is no module tests.lin"):
        load(run)


def run_command(folder, *words):
    """Runs the console script in a folder."""
    line = [sys.executable, str(ROOT / "experiments/console.py"), *words]
    done = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_sweep_of_ones_own_learners_is_drawn_where_their_module_is_not(tmp_path, capsys):
    """The module lies in the folder that the commands are started in, also for joblib's workers."""
    labelled(tmp_path / "data", **DATA)
    source = (ROOT / "tests/linear_learner.py").read_text()
    (tmp_path / "my_learners.py").write_text(source)
    run_command(
        tmp_path,
        *("train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "run=sweep"),
        *("agent=td3_bc", "agent.learner=my_learners:LINEAR,my_learners:RIDGE", "agent.name=a"),
        *("data.episodes=8", "data.tasks=2", "train.steps=4", "train.log_every=2"),
        "td3_bc.learning_rate=0.1",
        *("train.eval_every=2", "eval.tasks=2", "eval.trajectories=[1,2]", "eval.video=false"),
    )
    runs = [tmp_path / "sweep" / number for number in "01"]
    losses = [pd.read_csv(run / "metrics.csv")["loss"].to_list() for run in runs]
    assert all(loss[-1] < loss[0] for loss in losses) and losses[0] != losses[1]
    run_command(tmp_path, "evaluate", "run=sweep")
    with pytest.raises(ModuleNotFoundError):
        __import__("my_learners")
    capsys.readouterr()
    present(runs, tmp_path / "figures")
    said = capsys.readouterr().out
    for name in ("LINEAR", "RIDGE"):
        assert f"a agent.learner=my_learners:{name}: external learner" in said
    assert (tmp_path / "figures" / "return_vs_context.png").exists()
