"""The committed agent does what its committed records say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import agentic_transformer
import envs
from agentic_transformer.config import TrainCommand
from agentic_transformer.evaluation.conditions import evaluation_tasks
from experiments.cli.run_folder import read_config

pytestmark = pytest.mark.slow

MAZE = Path(__file__).parents[1] / "experiments" / "results" / "maze"


def test_the_committed_agent_earns_its_recorded_returns():
    """Its first three attempts in the maze: before the later ones, its own are in the context."""
    trained = read_config(MAZE / "run", TrainCommand)
    tasks = evaluation_tasks(trained.task, trained.eval, trained.seed)
    records = pd.read_csv(MAZE / "records.csv.gz").query(
        "condition == 'own' and seed == @trained.seed"
    )
    for attempt in agentic_transformer.load("maze").play(envs.make_vec(tasks), attempts=3):
        recorded = records[records["trajectories"] == attempt.number].sort_values("rollout")
        assert [task.id for task in tasks] == recorded["task_id"].tolist()
        close = np.isclose(attempt.returns, recorded["return"], rtol=1e-3, atol=1e-2)
        # Another processor rounds otherwise; where a drawn action or a contact with a wall turns on
        # that, the paths part.
        assert close.mean() >= 0.9
