"""Returns while training: what is logged is what the agents of the checkpoints earn, and nothing
that is trained depends on it."""

import itertools
import shutil
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

from agentic_transformer import load, train
from agentic_transformer.config import (
    AgentConfig,
    DataConfig,
    EvalConfig,
    EvaluateCommand,
    ModelConfig,
    TD3BCConfig,
    TrainCommand,
    TrainConfig,
)
from agentic_transformer.errors import UserError
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.loop import evaluation_due
from agentic_transformer.training.train import train as train_alone
from experiments.cli.run_folder import read_config
from experiments.evaluate import evaluate
from tests.seeds import SEED
from tests.small_agents import labelled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    labelled(root, episodes=8, tasks=2)
    return TrainCommand(
        seed=SEED,
        data=DataConfig(root=str(root), episodes=8, tasks=2, horizon=5),
        agent=AgentConfig(trajectories=2),
        model=ModelConfig(width=8, layers=1),
        train=TrainConfig(
            steps=5, batch=4, warmup=1, checkpoint_every=2, keep=9, eval_every=2, eval_tasks=3
        ),
        td3_bc=TD3BCConfig(width=8, batch=8),
        eval=EvalConfig(trajectories=[1, 3]),
    )


@pytest.fixture(scope="module")
def begun(config, tmp_path_factory):
    """A run of two steps, and its settings."""
    run = tmp_path_factory.mktemp("begun")
    config = replace(config, train=replace(config.train, steps=2))
    train(config, run)
    return config, run


def curve(run):
    return pd.read_csv(run / "learning_curve.csv")


def earned(config, run, step, condition):
    """Returns of the agent of a checkpoint, by the evaluation that follows training."""
    few = replace(config.eval, tasks=config.train.eval_tasks)
    tasks = evaluation_tasks(config.task, few, config.seed, config.data)
    attempts = Evaluation(load(run, str(step)), tasks, few).attempts(condition)
    return [attempt.trajectory.reward.sum(axis=1, dtype=np.float64).mean() for attempt in attempts]


@pytest.mark.parametrize(("learner", "condition"), [("transformer", "own"), ("td3_bc", "td3_bc")])
def test_the_curve_holds_what_checkpoints_earn_and_training_is_as_without(
    config, learner, condition, tmp_path
):
    config = replace(config, agent=replace(config.agent, learner=learner))
    without = train(replace(config, train=replace(config.train, eval_every=0)), tmp_path / "no")
    assert not (tmp_path / "no" / "learning_curve.csv").exists()
    state = train(config, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state, without)
    found = curve(tmp_path / "run")
    assert found["step"].tolist() == [0, 0, 2, 2, 4, 4, 5, 5]
    assert found["trajectories"].tolist() == [1, 3] * 4
    assert ((found["low"] <= found["return"]) & (found["return"] <= found["high"])).all()
    for step in (2, 5):
        expected = earned(config, tmp_path / "run", step, condition)
        rows = found[found["step"] == step]["return"]
        np.testing.assert_array_equal(rows, [expected[0], expected[2]])


def test_a_run_that_is_stopped_while_it_is_evaluated_has_the_same_curve_in_the_end(
    config, tmp_path
):
    whole = train(config, tmp_path / "whole")
    asked = itertools.count()
    # Asked before the first step, before each of the 15 actions of the first evaluation, after it,
    # and after steps 1 and 2: the request comes in the middle of the evaluation after step 2.
    stopped = train(config, tmp_path / "parts", lambda: next(asked) >= 19 + 7)
    assert int(stopped.step) == 2
    assert curve(tmp_path / "parts")["step"].tolist() == [0, 0]
    state = train(config, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    pd.testing.assert_frame_equal(curve(tmp_path / "parts"), curve(tmp_path / "whole"))


def test_an_evaluation_that_nobody_makes_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match=r"train.eval_every=2 needs a function"):
        train_alone(config, tmp_path)


def test_the_untrained_agent_and_the_last_step_are_evaluated_too():
    config = TrainConfig(steps=10, eval_every=4)
    assert [step for step in range(11) if evaluation_due(step, config)] == [0, 4, 8, 10]
    assert not any(evaluation_due(step, TrainConfig(steps=10)) for step in range(11))


def test_what_python_trains_is_a_run_that_commands_evaluate(config, tmp_path):
    config = replace(config, train=replace(config.train, steps=1, eval_every=0))
    train(config, tmp_path / "run")
    assert read_config(tmp_path / "run", TrainCommand) == config
    evaluation = replace(config.eval, tasks=2, conditions=["own"], video=False)
    evaluate(EvaluateCommand(run=str(tmp_path / "run"), eval=evaluation), tmp_path / "run")
    assert len(pd.read_csv(tmp_path / "run" / "records.csv")) == 2 * 3


def test_python_is_refused_what_a_command_line_is(config, tmp_path):
    told = replace(config.agent, told=True)
    with pytest.raises(UserError, match="told=true with agent.trajectories=2"):
        train(replace(config, agent=told), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": SEED + 1}, f"seed is {SEED} there and {SEED + 1} here"),
        ({"train": {"learning_rate": 0.5, "steps": 2}}, "learning_rate is 0.003 there and 0.5"),
        ({"data": {"tasks": 1}}, "data.tasks is 2 there and 1 here"),
        ({"train": {"steps": 1}}, "train.steps is 2 there and 1 here"),
        ({"eval": {"noise": 0.5}}, "learning_curve.csv would mix eval.noise=1.0 there and 0.5"),
    ],
)
def test_python_goes_on_with_a_run_only_as_a_command_line_does(begun, change, says):
    config, run = begun
    before = (run / "config.yaml").read_text()
    for group, values in change.items():
        if isinstance(values, dict):
            change[group] = replace(getattr(config, group), **values)
    with pytest.raises(UserError, match=says):
        train(replace(config, **change), run)
    assert (run / "config.yaml").read_text() == before
    assert Checkpoints(run).newest() == 2


def test_a_run_goes_on_in_python_with_more_steps_and_other_places(begun, tmp_path):
    """The settings that it has been trained with in the end are those that it tells."""
    config, run = begun
    shutil.copytree(run, tmp_path / "run")
    more = replace(config.train, steps=3, log_every=1, eval_every=0)
    config = replace(config, train=more, logger="tensorboard", resume=True)
    assert int(train(config, tmp_path / "run").step) == 3
    assert read_config(tmp_path / "run", TrainCommand) == config


def test_settings_of_a_run_that_cannot_be_read_are_kept(begun, tmp_path):
    config, run = begun
    shutil.copytree(run, tmp_path / "run")
    for damaged, says in (("task: [\n", "does not hold settings"), ("seed: 0\n", "was cut short")):
        (tmp_path / "run" / "config.yaml").write_text(damaged)
        with pytest.raises(UserError, match=f"config.yaml {says}"):
            train(config, tmp_path / "run")
        assert (tmp_path / "run" / "config.yaml").read_text() == damaged
