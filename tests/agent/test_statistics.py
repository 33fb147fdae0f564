"""Statistics against closed forms."""

import numpy as np
import pandas as pd
import pytest

from agentic_transformer import statistics


def make_records(returns, condition="own", agent="at", seed=0):
    """Records of a (units, attempts) table of returns."""
    rows = [
        {"agent": agent, "task": "t", "condition": condition, "seed": seed, "task_id": f"g{unit}", "rollout": 0,
         "trajectories": n + 1, "context_steps": 0, "trained_trajectories": 2, "return": value}
        for unit, row in enumerate(returns) for n, value in enumerate(row)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    mean, low, high = statistics.interval(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(mean - half, abs=0.1 * half), pytest.approx(mean + half, abs=0.1 * half))


def test_a_constant_has_an_interval_without_width():
    assert statistics.interval(np.full(5, 3.0)) == (3.0, 3.0, 3.0)


def test_best_of_n_is_the_running_maximum_and_the_mean_is_of_the_nth():
    returns = np.array([[1.0, 3.0, 2.0], [2.0, 0.0, 5.0]])
    summary = statistics.summarise(make_records(returns)).set_index("trajectories")
    assert summary["mean"].tolist() == [1.5, 1.5, 3.5]
    assert summary["best_mean"].tolist() == [1.5, 2.5, 4.0]


def test_comparison_is_paired():
    rng = np.random.default_rng(0)
    level = rng.normal(0, 100, (50, 1))  # tasks differ far more than conditions do
    own, control = level + 1 + rng.normal(0, 0.1, (50, 1)), level
    other = np.flip(control, axis=0)
    records = pd.concat([make_records(own), make_records(control, "no_context"), make_records(other, "dt", agent="dt")])
    compared = statistics.compare(records).set_index("against")
    assert compared.loc["no_context", "low"] > 0.9
    assert compared.loc["no_context", "high"] < 1.1
    assert compared.loc["dt", "low"] < -1  # the baseline's returns belong to other tasks: nothing cancels


def test_the_same_run_twice_is_refused():
    records = make_records([[1.0, 2.0]])
    with pytest.raises(ValueError, match="two of the runs hold the same records"):
        statistics.join([records, records])
    assert len(statistics.join([records, make_records([[1.0, 2.0]], seed=1)])) == 4


def test_bad_records_are_named(tmp_path):
    path = tmp_path / "records.csv"
    make_records([[1.0, 2.0]]).drop(columns="return").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"records.csv lacks the columns \['return'\]"):
        statistics.read_records(path)
    twice = make_records([[1.0, 2.0]])
    pd.concat([twice, twice]).to_csv(path, index=False)
    with pytest.raises(ValueError, match="two rows with the same .* line 4"):
        statistics.read_records(path)
