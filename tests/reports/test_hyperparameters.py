"""Settings and results as TensorBoard's HPARAMS tab reads them."""

import struct
from dataclasses import replace

import pandas as pd
from tensorboardX.proto.event_pb2 import Event

from agentic_transformer.config import TrainCommand
from experiments.reports.hyperparameters import save_hyperparameters
from tests.evaluation.test_statistics import make_records


def summaries(folder):
    """The values in all event files of a folder."""
    for path in folder.glob("*tfevents*"):
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            event = Event()
            event.ParseFromString(content[12 : 12 + length])
            content = content[16 + length :]
            yield from event.summary.value


def found(run):
    values = list(summaries(run / "tensorboard" / "hparams"))
    numbers = {value.tag: value.simple_value for value in values if value.tag.startswith("final")}
    plugin = b"".join(value.metadata.plugin_data.content for value in values)
    return numbers, plugin


def test_settings_stand_beside_the_newest_results(tmp_path):
    settings = replace(TrainCommand(), seed=7)
    save_hyperparameters(settings, tmp_path)
    assert not (tmp_path / "tensorboard").exists()  # nothing to compare by
    log = {"step": [1, 2, 3], "loss": [3.0, 2.0, None]}  # step 3 learned nothing
    pd.DataFrame(log).to_csv(tmp_path / "metrics.csv")
    curve = {"step": [0, 0, 2, 2], "trajectories": [1, 4, 1, 4], "return": [0.0, 0.5, 1.0, 4.0]}
    pd.DataFrame(curve).to_csv(tmp_path / "learning_curve.csv")
    save_hyperparameters(settings, tmp_path)
    numbers, plugin = found(tmp_path)
    trained = {
        "final/loss": 2.0,
        "final/while_training_1": 1.0,
        "final/while_training_4": 4.0,
    }
    assert numbers == trained
    for key in (b"seed", b"model.width", b"agent.name", b"at_prefix", b"eval.trajectories"):
        assert key in plugin
    assert b"data.root" not in plugin
    make_records([[1.0, 3.0], [2.0, 5.0]]).to_csv(tmp_path / "records.csv")
    save_hyperparameters(settings, tmp_path, tmp_path)
    assert found(tmp_path)[0] == trained | {"final/own_2": 4.0}


def test_a_fault_costs_nothing_but_a_line(tmp_path, capsys):
    pd.DataFrame({"step": [1], "loss": [3.0]}).to_csv(tmp_path / "metrics.csv")
    (tmp_path / "tensorboard").write_text("a file")
    save_hyperparameters(TrainCommand(), tmp_path)
    assert capsys.readouterr().out.count("\n") == 1
