"""Training from Python: from data to checkpoints, without a command line."""

import jax
import numpy as np
import pandas as pd
import pytest

from agentic_transformer import load, train
from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    ModelConfig,
    TD3BCConfig,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.training.checkpoint import Checkpoints
from tests.seeds import SEED
from tests.small_agents import labelled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of four small steps."""
    root = tmp_path_factory.mktemp("data")
    labelled(root, episodes=8, tasks=2)
    return TrainCommand(
        seed=SEED,
        data=DataConfig(root=str(root), episodes=8, tasks=2),
        agent=AgentConfig(trajectories=2),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(steps=4, batch=4, warmup=1, log_every=2, checkpoint_every=2),
        td3_bc=TD3BCConfig(width=8, batch=8),
    )


@pytest.fixture(params=["transformer", "td3_bc"])
def config(settings, request):
    settings.agent.learner = request.param
    return settings


def test_a_run_is_trained_and_loaded_from_python(config, tmp_path):
    facts = {}
    state = train(config, tmp_path, note=facts.update)
    assert int(state.step) == 4 and facts.keys() == {"episodes", "computation"}
    assert facts["episodes"] == 8
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [2, 4]
    assert Checkpoints(tmp_path).newest() == 4
    agent = load(str(tmp_path), checkpoint="2")
    observation = np.zeros((3, agent.spec.observation_size))
    context = agent.new_context(3, 1)
    action, _ = agent.act(context, np.ones(3), observation, 0, jax.random.key(0), 1.0, 1.0)
    assert action.shape == (3, agent.spec.action_size)


def test_a_run_that_was_told_to_stop_goes_on_to_the_same_state(config, tmp_path, capsys):
    whole = train(config, tmp_path / "whole")
    asked = iter([False, False, True])
    assert int(train(config, tmp_path / "parts", lambda: next(asked)).step) == 2
    state = train(config, tmp_path / "parts")
    assert "goes on from checkpoint 2" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_a_run_that_was_told_to_stop_before_its_first_step_saves_nothing(settings, tmp_path):
    assert int(train(settings, tmp_path, lambda: True).step) == 0
    assert not list((tmp_path / "checkpoints").iterdir())
