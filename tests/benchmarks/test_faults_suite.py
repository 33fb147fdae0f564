"""What the suite `faults` compares."""

import time

from agentic_transformer.training.metrics import MetricsLog
from experiments.benchmarks.faults_runs import timeless


def test_runs_that_differ_in_speed_alone_have_the_same_metrics(tmp_path):
    tables = []
    for name, pause, last in (("fast", 0, 0.5), ("slow", 0.01, 0.5), ("other", 0, 0.25)):
        (tmp_path / name).mkdir()
        with MetricsLog(tmp_path / name, tokens_per_step=3) as log:
            log.write(1, {"loss": 1.0, "empty": None})
            time.sleep(pause)
            log.write(2, {"loss": last, "empty": None})
        tables.append(timeless(tmp_path / name / "metrics.csv"))
    fast, slow, other = tables
    assert (
        fast
        == slow
        == [
            {"step": "1", "loss": "1.0", "empty": ""},
            {"step": "2", "loss": "0.5", "empty": ""},
        ]
    )
    assert [one == two for one, two in zip(fast, other, strict=True)] == [True, False]
