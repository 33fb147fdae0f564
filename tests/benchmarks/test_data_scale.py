"""The benchmark of a large buffer, on a small one."""

import pandas as pd
import pytest

from experiments.benchmarks import data_scale


@pytest.mark.slow
def test_two_starts_are_measured(monkeypatch, tmp_path):
    for name, small in (("_EPISODES", 8), ("_LENGTH", 40), ("_TASKS", 4)):
        monkeypatch.setattr(data_scale, name, small)
    data_scale.run(tmp_path)
    table = pd.read_csv(tmp_path / "measurements.csv")
    starts = [item for item in table["item"] if "start with 4 tasks" in item]
    assert len(starts) == 6 and len(table) == 7
    assert (table["value"] > 0).all()
