"""TensorBoard is for watching: where it fails, training and `metrics.csv` go on."""

import pandas as pd
from tensorboardX.record_writer import RecordWriter

from agentic_transformer.training.metrics import MetricsLog


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_ends_the_events_alone(tmp_path, monkeypatch, capsys):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 1.0})
        monkeypatch.setattr(RecordWriter, "write", full)
        monkeypatch.setattr(RecordWriter, "flush", full)
        for step in range(2, 100):
            log.write(step, {"loss": 1.0})
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == list(range(1, 100))
    assert capsys.readouterr().err.count("no TensorBoard events from here on: [Errno 28]") == 1


def test_a_folder_that_cannot_be_made_ends_the_events_alone(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file")
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": 1.0})
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [1]
    assert "no TensorBoard events from here on" in capsys.readouterr().err
