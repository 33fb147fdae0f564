"""An environment of one's own, from its module to records: collect, train, evaluate."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from tests.cli.conftest import ROOT
from tests.processes import environment

pytestmark = pytest.mark.slow

TASK = "task=gymnasium:my_module:MyEnv-v0"


def test_an_environment_of_ones_own_is_trained_on_and_evaluated(tmp_path):
    """The module is the one of docs/data.md; its returns lie in the range that it allows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.S)
    (module,) = (block for block in blocks if block.startswith("# my_module.py"))
    (tmp_path / "my_module.py").write_text(module)

    def run(name, *words):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *words],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    data = [TASK, "data.algo=noise", "data.episodes=20"]
    run("collect", *data)
    small = ["train.steps=4", "train.batch=2", "agent.trajectories=2", "model.width=8"]
    said = run("train", *data, *small, "model.layers=1", "run=r")
    assert "rewards: those in the episodes\n" in said
    assert said.endswith("run folder: r\nnext: python -m experiments.evaluate run=r\n")
    conditions = "eval.conditions=[own,dataset]"
    said = run("evaluate", "run=r", "eval.tasks=2", "eval.trajectories=[1,2]", conditions)
    # There are no states to draw a video from, and no word of it.
    assert "attempts.mp4" not in said
    paths = [line for line in said.splitlines() if line.startswith("r/")]
    assert paths[0] == "r/return_vs_context.png" and "r/summary.csv" in paths
    records = pd.read_csv(tmp_path / "r" / "records.csv")
    assert len(records) == 2 * 2 * 2
    # Ten steps from within 0.1 of 0, each of -0.1 to 0.3; the reward is minus the distance to 1.
    moves = np.arange(1, 11)
    worst = -np.maximum(1.1 + 0.1 * moves, 0.1 + 0.3 * moves - 1).sum()
    assert records["return"].between(worst, 0).all()
    assert (records["best_return"] < 0).all()
