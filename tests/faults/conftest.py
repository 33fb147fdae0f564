"""A small run that several tests evaluate."""

import shutil

import pytest

from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    ModelConfig,
    TrainCommand,
)
from experiments.cli import run_folder
from experiments.evaluate import evaluate
from tests.faults.saved_agents import save
from tests.small_agents import describe, labelled


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, as good as trained, that was evaluated without interruption, and its agent."""
    folder = tmp_path_factory.mktemp("evaluations")
    data = labelled(folder / "data")
    command = TrainCommand(
        data=DataConfig(root=str(folder / "data"), episodes=40, tasks=3),
        agent=AgentConfig(trajectories=4),
        model=ModelConfig(width=16, layers=1),
        eval=EvalConfig(trajectories=[1, 3], tasks=3, video=False),
    )
    run, description = folder / "run", describe(data)
    run_folder.write_description(run, command, [], {})
    save(run, description, 1)
    shutil.copytree(run, folder / "copied")
    evaluate(EvaluateCommand(run=str(run), eval=command.eval), run)
    return run, description, command.eval


@pytest.fixture
def again(whole, tmp_path):
    """The same run, not evaluated yet."""
    return shutil.copytree(whole[0].parent / "copied", tmp_path / "again")
