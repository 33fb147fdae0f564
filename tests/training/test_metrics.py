"""The log of a run that is resumed."""

import pandas as pd
import pytest

from agentic_transformer.training.metrics import MetricsLog


@pytest.fixture
def run(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in range(1, 6):
            log.write(step, {"loss": float(step)})
    return tmp_path


def logged(run):
    table = pd.read_csv(run / "metrics.csv")
    return dict(zip(table["step"], table["loss"], strict=True))


def test_steps_that_are_trained_again_are_logged_once(run):
    with MetricsLog(run, from_step=3) as log:
        log.write(4, {"loss": 40.0})
    assert logged(run) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0}


def test_a_row_that_a_kill_cut_short_is_dropped(run):
    with (run / "metrics.csv").open("a") as file:
        file.write("6,6")
    MetricsLog(run, from_step=6).__exit__(None, None, None)
    assert logged(run) == {step: float(step) for step in range(1, 6)}


def test_a_kill_while_the_log_is_rewritten_loses_nothing(run, monkeypatch):
    append, rows = MetricsLog._append, []

    def killed(self, row):
        rows.append(row)
        if len(rows) == 3:
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(MetricsLog, "_append", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(run, from_step=5)
    assert logged(run) == {step: float(step) for step in range(1, 6)}
