"""The main job end to end, in small: what `make quickstart` leaves behind, and that its parts can
be run one by one."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from agentic_transformer.config import AgentConfig, EvalConfig, QuickstartCommand, TrainCommand
from agentic_transformer.evaluation.records import REQUIRED, UNIT
from agentic_transformer.evaluation.statistics import summarize
from agentic_transformer.run_files import is_locked
from experiments import quickstart as quickstart_command
from tests.evaluation.test_statistics import make_records
from tests.no_drawing_library import hide_in
from tests.processes import environment

pytestmark = pytest.mark.slow

SMALL = [
    "data.episodes=120",
    "data.tasks=6",
    "train.steps=30",
    "train.log_every=10",
    "model.width=16",
    "model.layers=1",
]
EVALUATION = ["eval.trajectories=[1,2,4]", "eval.tasks=4"]


def command(folder, name, *words, **variables):
    """Runs a command from another folder than the repository's; its standard output."""
    line = [sys.executable, "-m", f"experiments.{name}", *words]
    inherited = environment()
    if "PYTHONPATH" in variables:
        variables["PYTHONPATH"] += os.pathsep + inherited["PYTHONPATH"]
    done = subprocess.run(
        line, cwd=folder, env=inherited | variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    hidden = hide_in(tmp_path_factory.mktemp("hidden")) | {"MUJOCO_GL": "egl"}
    words = ["run=demo", "agent.trajectories=4", *SMALL, *EVALUATION]
    return folder, command(folder, "quickstart", *words, **hidden)


def test_the_folder_of_an_agent_is_locked_while_a_quickstart_trains_it(tmp_path, monkeypatch):
    locked = []

    def training(config, run):
        locked.append(is_locked(run))
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.collect.main", lambda config: None)
    monkeypatch.setattr("experiments.train.main", training)
    with pytest.raises(KeyboardInterrupt):
        quickstart_command.main(QuickstartCommand(), tmp_path)
    assert locked == [True]


def test_quickstart_leaves_everything_that_is_promised(quickstart):
    folder, said = quickstart
    demo = folder / "demo"
    for name in (
        "config.yaml",
        "overrides.yaml",
        "provenance.json",
        "records.csv",
        "summary.csv",
        "return_vs_context.png",
        "attempts.png",
    ):
        assert (demo / name).stat().st_size > 0, name
    for agent in ("at_search", "dt"):
        for name in (
            "config.yaml",
            "provenance.json",
            "metrics.csv",
            "tensorboard",
            "checkpoints/30",
            "records.csv",
            "rollouts.npz",
        ):
            assert (demo / agent / name).exists(), name
    assert json.loads((demo / "provenance.json").read_text())["seeds"]["seed"] == 0
    for agent in ("at_search", "dt"):
        facts = json.loads((demo / agent / "provenance.json").read_text())
        assert facts["computation"]["attention"] == "ring" and facts["backend"] == "cpu"
        assert facts["acting"]["attention"] == "to the key/value cache"
    assert [line[:15] for line in said.splitlines() if "float32 products" in line] == [
        "computes on 2 x",  # the quickstart trains on a ring of two, and acts on one device
        "computes on 1 x",
    ] * 2
    # The baseline sees as many trajectories in a step as the agent does.
    seen = [line.split(" (")[0] for line in said.splitlines() if "trajectories a step" in line]
    assert len(seen) == 2 and len(set(seen)) == 1
    assert "own trajectories in context minus empty context: " in said
    kinds = ("return_vs_context", "return_vs_tokens", "entropy", "training", "attempts")
    figures = [f"{kind}.png" for kind in kinds]
    lines = said.rstrip().splitlines()
    first = lines.index("demo/return_vs_context.png")
    assert lines[first : first + 5] == [f"demo/{name}" for name in figures]
    assert [line.split(":")[0] for line in lines[-4:]] == [
        *("what was learned", "the figure", "what to try next", "run folder")
    ]
    stages = [line for line in lines if line.startswith("stage ")]
    assert [line.split(":")[0] for line in stages] == [f"stage {n} of 6" for n in range(1, 7)]
    assert "compiling" in stages[1] and "may fall below 0" in said


def test_a_plane_is_drawn_without_a_drawing_library(quickstart):
    folder, said = quickstart
    assert "render" not in said
    for agent in ("at_search", "dt"):
        assert (folder / "demo" / agent / "attempts.mp4").stat().st_size > 0


def test_records_hold_every_condition_paired_by_task(quickstart):
    folder, _ = quickstart
    records = pd.read_csv(folder / "demo" / "records.csv")
    assert set(REQUIRED) <= set(records)
    counts = records.groupby(["condition", "trajectories"]).size()
    assert set(counts.index) == {
        (c, n)
        for c in ("own", "no_context", "foreign", "dataset", "posterior_sampling", "dt")
        for n in (1, 2, 3, 4)
    }
    assert set(counts) == {4}
    units = records.groupby("condition").apply(
        lambda rows: frozenset(map(tuple, rows[UNIT].to_numpy())), include_groups=False
    )
    assert len(set(units)) == 1
    assert records["return"].between(0, 12).all()
    metrics = pd.read_csv(folder / "demo" / "at_search" / "metrics.csv")
    assert metrics["step"].tolist() == [10, 20, 30]
    assert np.isfinite(metrics.to_numpy()).all()


def test_parts_run_one_by_one_and_agree_with_the_whole(quickstart):
    folder, _ = quickstart
    command(folder, "export", "run=demo/at_search", "out=shared")
    command(folder, "evaluate", "run=shared", "eval.video=false")
    assert (folder / "shared" / "records.csv").read_bytes() == (
        folder / "demo" / "at_search" / "records.csv"
    ).read_bytes()
    made_with = json.loads((folder / "shared" / "evaluate" / "provenance.json").read_text())
    assert (made_with["backend"], made_with["default_matmul_precision"]) == ("cpu", None)
    said = command(folder, "plot", "runs=[demo/at_search,demo/dt]", "out=again")
    assert "again/return_vs_context.png" in said
    assert (folder / "again" / "summary.csv").read_bytes() == (
        folder / "demo" / "summary.csv"
    ).read_bytes()


def test_a_sweep_gives_every_job_its_folder(quickstart):
    folder, _ = quickstart
    words = [
        "experiment=quickstart",
        "run=sweep",
        "seed=0,1",
        "agent.trajectories=2",
        "model.width=8",
        "model.layers=1",
    ]
    command(folder, "train", "-m", *words, "data.episodes=120", "data.tasks=6", "train.steps=2")
    runs = sorted(path.parent for path in (folder / "sweep").glob("*/metrics.csv"))
    assert len(runs) == 2
    assert len({pd.read_csv(run / "metrics.csv")["loss"].iloc[-1] for run in runs}) == 2


def test_a_baseline_with_contexts_of_its_own_is_not_what_was_learned(tmp_path):
    """The last lines come after all the work: they are of the agent, whatever stands beside it."""
    earned = {"at_search": (1.0, 7.0), "at_prefix": (2.0, 5.0)}
    parts = [
        make_records([returns], condition, agent)
        for agent, returns in earned.items()
        for condition in ("own", "no_context")
    ]
    summarize(pd.concat(parts)).to_csv(tmp_path / "summary.csv", index=False)
    asked = TrainCommand(agent=AgentConfig(name="at_search"), eval=EvalConfig(trajectories=[1, 2]))
    said = quickstart_command._ending(tmp_path, asked)
    assert "attempt 2 of a context earns 7.0, attempt 1 earned 1.0" in said
