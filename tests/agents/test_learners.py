"""A learner that is added to the table works in every command; one that is not there is refused
with the file to edit."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from agentic_transformer import train
from agentic_transformer.agents.load import make_agent
from agentic_transformer.config import AgentConfig, TrainCommand
from tests.processes import environment
from tests.small_agents import describe, labelled

# Runs a command as `python -m` does, with one more learner.
SCRIPT = """
import runpy, sys
from agentic_transformer.learners import LEARNERS, LearnerKind
LEARNERS["linear"] = LearnerKind(
    "linear behaviour cloning",
    trains="tests.linear_learner:LinearLearner",
    acts="tests.linear_learner:LinearAgent",
    label="linear map",
    style=("#2f4b7c", "d"),
)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def command(name, *words):
    line = [sys.executable, "-c", SCRIPT, f"experiments.{name}", *words]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_learner_that_is_added_is_trained_evaluated_and_drawn(tmp_path):
    labelled(tmp_path, episodes=8, tasks=2)
    run = f"run={tmp_path / 'run'}"
    data = [f"data.root={tmp_path}", "data.episodes=8", "data.tasks=2"]
    agent = ["agent=td3_bc", "agent.learner=linear", "agent.name=linear"]
    command("train", run, *data, *agent, "train.steps=4", "train.log_every=2", "train.eval_every=2")
    losses = pd.read_csv(tmp_path / "run" / "metrics.csv")["loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    said = command("evaluate", run, "eval.tasks=2", "eval.trajectories=[1,2]", "eval.video=false")
    assert "linear map" in said
    assert set(pd.read_csv(tmp_path / "run" / "records.csv")["condition"]) == {"linear"}
    assert (tmp_path / "run" / "return_vs_context.png").exists()


def test_a_learner_that_is_not_there_is_refused_with_the_file_to_edit(tmp_path):
    config = TrainCommand(agent=AgentConfig(learner="linear"))
    with pytest.raises(ValueError, match="agent.learner=linear: unknown"):
        train(config, tmp_path / "run")
    spec = describe(labelled(tmp_path, episodes=2, tasks=2))
    says = (
        "^agent.learner=linear is unknown; .* entry of LEARNERS in agentic_transformer/learners.py$"
    )
    with pytest.raises(ValueError, match=says):  # where a checkpoint names it
        make_agent(replace(spec, agent=config.agent), params={})
