"""Every row and column of the paper's table trains for a few steps, and a cell is evaluated."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import datasets
import envs
from agentic_transformer.config import EvaluateCommand
from agentic_transformer.validation import check_command
from experiments import train
from experiments.cli.run_folder import write_description
from experiments.evaluate import evaluate
from tests.cli.test_configs import composed
from tests.seeds import SEED, rng

TASKS = (
    "walker_stand",
    "walker_run",
    "walker_walk",
    "cheetah_run",
    "jaco_reach_top_left",
    "cartpole_swingup",
)
COLUMNS = (
    ["agent=bc10", "train.batch=32"],
    ["agent=dt", "train.batch=32"],
    ["agent=td3"],
    ["agent=td3_bc"],
    ["agent=iql"],
    ["agent=cql"],
    ["agent=crr"],
    ["model.attention=memory_efficient"],
    ["model.attention=blockwise"],
    ["model.attention=ring"],
)
SMALL = [
    "data.algo=random",
    "data.episodes=12",
    "train.steps=2",
    "model.width=8",
    "model.layers=1",
    "eval.video=false",
]
SHORT = ["agent.trajectories=2", "train.batch=2", "eval.trajectories=[1,2]", "eval.tasks=2"]
LENGTH = 250  # the control steps of an episode of the table


def cell(task, column, *words):
    command = composed("train", "experiment=paper_table", f"task={task}", *column, *words)
    check_command(command)
    return command


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Random episodes of every domain."""
    root = tmp_path_factory.mktemp("data")
    for task in {envs.task(name).domain: name for name in TASKS}.values():
        env = envs.make_vec(task, 12, horizon=LENGTH)
        draws = rng(0)
        observation, info = env.reset(seed=SEED)
        action = np.zeros(env.action_space.shape)
        rows = [(observation, action, info["physics"])]
        for _ in range(LENGTH):
            action = draws.uniform(-1, 1, env.action_space.shape)
            observation, _, _, _, info = env.step(action)
            rows.append((observation, action, info["physics"]))
        buffer = datasets.buffer_folder(root, task, "random")
        buffer.mkdir(parents=True)
        ones = np.ones((LENGTH + 1, 1))
        for index, arrays in enumerate(
            zip(*(np.stack(column, axis=1) for column in zip(*rows, strict=True)), strict=True)
        ):
            observation, action, physics = arrays
            datasets.write_episode(
                buffer, index, datasets.Episode(observation, action, 0 * ones, ones, physics)
            )
    return root


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("column", COLUMNS, ids=lambda words: words[0])
def test_every_cell_is_a_valid_setting(task, column):
    command = cell(task, column)
    assert command.data.action_repeat * command.data.horizon <= envs.spec(task).length
    at = command.agent.name == "at"
    assert (command.agent.target, command.model.head, command.model.tokens) == (
        "chain_max" if at else "own",
        "mse",
        "separate",
    )
    assert command.agent.trajectories == (8 if at else 1)
    if command.agent.learner == "transformer":
        assert command.train.batch * command.agent.trajectories == 32


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS[:-1], ids=lambda words: words[0])
def test_columns_train(root, tmp_path, column):
    short = SHORT if column[0].startswith("model") else []
    train.main(cell("cartpole_swingup", column, *SMALL, *short, f"data.root={root}"), tmp_path)
    assert np.isfinite(pd.read_csv(tmp_path / "metrics.csv")["loss"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["walker_stand", "cheetah_run", "jaco_reach_top_left"])
def test_rows_train(root, tmp_path, task):
    """One of each body; the columns are trained on cartpole."""
    train.main(cell(task, COLUMNS[-1], *SMALL, *SHORT, f"data.root={root}"), tmp_path)
    assert np.isfinite(pd.read_csv(tmp_path / "metrics.csv")["loss"]).all()


@pytest.mark.slow
def test_a_cell_is_evaluated_with_the_actions_held_and_episodes_as_short(root, tmp_path):
    command = replace(
        cell("cartpole_swingup", COLUMNS[-1], *SMALL, *SHORT, f"data.root={root}"),
        run=str(tmp_path),
    )
    write_description(tmp_path, command, [], {})
    train.main(command, tmp_path)
    evaluate(EvaluateCommand(run=str(tmp_path), eval=command.eval), tmp_path)
    records = pd.read_csv(tmp_path / "records.csv")
    assert set(records["condition"]) == {"own", "no_context", "dataset"}
    assert set(records["context_steps"]) == {0, 50}
    assert set(records["context_tokens"]) == {0, 200}
    assert set(records["episode_steps"]) == {LENGTH}
    with np.load(tmp_path / "rollouts.npz") as stored:
        assert stored["physics"].shape[2] == 51
