"""The suite `data`, on small buffers: what it measures, and how it goes on after a kill."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import datasets
from datasets.episode import episode_files
from envs.headless import mujoco
from experiments.benchmarks import data, data_collecting, data_figures, data_rates, data_stepping
from experiments.benchmarks.data_line import Line

TASK, COLLECTOR, EPISODES = "cartpole_swingup", "random", 2


def test_returns_are_paid_and_finished_parts_are_kept(tmp_path, monkeypatch):
    """The second of three parts is interrupted. Cartpole's reward has a cost of control."""
    calls = []

    def first():
        calls.append("first")
        return [Line("relabelling", "made up", 0.1, "x", 1)]

    def second():
        calls.append("second")
        if calls.count("second") == 1:
            raise KeyboardInterrupt
        return [Line("stepping", "made up", 3, "")]

    monkeypatch.setattr(data_rates, "PARTS", {"first": first, "second": second})
    monkeypatch.setattr(data_collecting, "BUFFERS", {TASK: (COLLECTOR, EPISODES)})
    monkeypatch.setattr(data_figures, "plot", lambda folder: None)
    folder = tmp_path / "results"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        data.run(folder)
    data.run(folder)
    assert calls == ["first", "second", "second"]
    table = pd.read_csv(folder / "measurements.csv")
    assert table["item"].tolist()[:3] == [
        "made up",
        "made up",
        f"{TASK} by {COLLECTOR}: episodes in 30 CPU minutes",
    ]
    assert table["at_least"][0] == 1 and np.isnan(table["at_least"][1])
    returns = pd.read_csv(folder / "returns.csv")
    buffer = datasets.buffer_folder(folder / "buffers", TASK, COLLECTOR)
    paid = [datasets.read_episode(path).reward.sum() for path in episode_files(buffer)]
    np.testing.assert_allclose(returns[returns.task == TASK]["return"], paid, rtol=1e-4)
    # A buffer with more episodes than asked for has no speed.
    _, lines = data_collecting.collect(folder / "buffers", TASK, COLLECTOR, EPISODES - 1)
    assert not any("episodes in 30 CPU minutes" in line.item for line in lines)


def test_bare_steps_are_of_a_model_that_does_not_search_for_islands(monkeypatch):
    """As ours does not: the search takes time, and the share of the bare rate would be too high."""
    searched = set()

    def step(model, data, substeps):
        searched.add(not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_ISLAND)
        mujoco.mj_step(model, data, substeps)

    functions = {"MjData": mujoco.MjData, "mj_copyData": mujoco.mj_copyData, "mj_step": step}
    monkeypatch.setattr(data_stepping, "mujoco", SimpleNamespace(**functions))
    monkeypatch.setattr(data_stepping, "_SECONDS", 0)
    monkeypatch.setattr(data_stepping, "_ROUNDS", 1)
    rates = data_stepping.measure("cartpole_balance")
    assert searched == {False}
    assert rates.difference == 0 and min(rates[:3]) > 0
