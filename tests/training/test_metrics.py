"""The log of a run that is resumed."""

import resource
import sys
import types

import pandas as pd
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from agentic_transformer.training.csv_log import CsvLog
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
    append, rows = CsvLog.append, []

    def killed(self, row):
        rows.append(row)
        if len(rows) == 3:
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(CsvLog, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(run, from_step=5)
    assert logged(run) == {step: float(step) for step in range(1, 6)}


def test_rates_are_those_since_the_last_row_without_evaluations(tmp_path, monkeypatch):
    # Opened; row; evaluated until; row; row.
    clock = iter([100.0, 102.0, 110.0, 114.0, 116.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with MetricsLog(tmp_path, from_step=20, tokens_per_step=3) as log:
        log.write(30, {"loss": 1.0})
        log.write_returns(30, [{"trajectories": 1, "return": 2.0, "low": 1.0, "high": 3.0}])
        log.write(50, {"loss": 1.0})
        log.write(66, {"loss": 1.0})
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["steps_per_second"].tolist() == [5.0, 5.0, 8.0]
    assert table["tokens_per_second"].tolist() == [15.0, 15.0, 24.0]
    assert table["seconds"].tolist() == [2.0, 14.0, 16.0]


def test_a_log_of_an_earlier_version_goes_on_with_its_columns(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss,seconds\n1,0.5,2.0\n")
    with MetricsLog(tmp_path, from_step=1) as log:
        log.write(2, {"loss": 0.25})
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table.columns.tolist() == ["step", "loss", "seconds"]
    assert table["loss"].tolist() == [0.5, 0.25] and table["seconds"].iloc[1] >= 2


def test_a_mean_of_nothing_is_an_empty_cell_that_a_resumed_log_keeps(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": None, "norm": 1.0})
        log.write(2, {"loss": 0.5, "norm": 1.0})
    with MetricsLog(tmp_path, from_step=1) as log:
        log.write(2, {"loss": None, "norm": 2.0})
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.startswith("step,loss,norm,")
    assert [row.split(",")[:3] for row in rows] == [["1", "", "1.0"], ["2", "", "2.0"]]


def test_a_mean_of_nothing_is_no_event(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": None, "norm": 1.0})
        log.write(2, {"loss": 0.5, "norm": 1.0})
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = [(event.step, one.tag) for event in events(file) for one in event.summary.value]
    assert (1, "loss") not in found and {(1, "norm"), (2, "loss"), (2, "norm")} <= set(found)


def test_returns_of_steps_that_are_trained_again_are_dropped(tmp_path):
    row = {"trajectories": 1, "return": 2.0, "low": 1.0, "high": 3.0}
    with MetricsLog(tmp_path) as log:
        for step in (0, 2, 4):
            log.write_returns(step, [row])
    with MetricsLog(tmp_path, from_step=2) as log:
        assert [log.has_returns(step) for step in (0, 2, 4)] == [True, True, False]
    assert pd.read_csv(tmp_path / "learning_curve.csv")["step"].tolist() == [0, 2]


def test_a_kill_leaves_all_rows_of_an_evaluation_or_none(tmp_path):
    """A resumed run would take a step with one of its two rows for evaluated."""
    path, seen = tmp_path / "learning_curve.csv", []

    class Value(float):
        """Looks into the file while a row is made of it."""

        def __repr__(self):
            seen.append(path.read_text())
            return super().__repr__()

        __str__ = __repr__

    first, last = ({"trajectories": n, "low": 1.0, "high": 3.0} for n in (1, 8))
    with MetricsLog(tmp_path) as log:
        log.write_returns(0, [first | {"return": 2.0}, last | {"return": 2.0}])
        before = path.read_text()
        log.write_returns(2, [first | {"return": Value(2)}, last | {"return": Value(2)}])
    assert len(seen) > 1 and set(seen) == {before}
    assert pd.read_csv(path)["trajectories"].tolist() == [1, 8, 1, 8]


def events(file):
    """Reads TensorBoard's events: 8 bytes of a length, 4 of its checksum, the event, 4 more."""
    content = file.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]


def test_tensorboard_forgets_the_steps_that_are_trained_again_alone(tmp_path):
    """It drops events of the step of a start, and of later ones."""
    with MetricsLog(tmp_path, from_step=20) as log:
        log.write(21, {"loss": 1.5})
    (file,) = (tmp_path / "tensorboard").iterdir()
    version, start, *numbers = events(file)
    assert version.file_version == "brain.Event:2"
    assert start.session_log.status == SessionLog.START and start.step == 21
    values = {
        (each.step, one.tag): one.simple_value for each in numbers for one in each.summary.value
    }
    assert values[21, "loss"] == 1.5 and len(values) == len(numbers) > 1


def test_the_error_of_a_full_disk_names_the_table(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = pytest.raises(OSError, match=r"File too large: '.*/metrics\.csv'")
    try:
        with told, MetricsLog(tmp_path) as log:
            log.write(1, {"loss": 1.0})
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            for step in range(2, 20):
                log.write(step, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


class FakeWandb(types.ModuleType):
    """Keeps what would be sent to Weights & Biases."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.numbers, self.finished = [], [], 0

    def init(self, **facts):
        self.started.append(facts)
        return self

    def log(self, numbers, step):
        self.numbers.append((step, numbers))

    def finish(self):
        self.finished += 1


def test_wandb_gets_settings_and_numbers_and_goes_on_with_its_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        with MetricsLog(tmp_path, from_step=step - 1, wandb_settings={"seed": 3}) as log:
            log.write(step, {"loss": 0.5})
            returns = {"return": 2.0 + step, "low": 1.0, "high": 4.0}
            log.write_returns(step, [{"trajectories": n, **returns} for n in (1, 8)])
    first, second = fake.started
    assert first == second and first["config"] == {"seed": 3} and first["resume"] == "allow"
    assert len(first["id"]) == 8 and first["dir"] == str(tmp_path)
    assert [step for step, numbers in fake.numbers if numbers == {"loss": 0.5}] == [1, 2]
    earned = {(step, *one) for step, numbers in fake.numbers for one in numbers.items()}
    for step in (1, 2):
        assert {(step, f"return/trajectory_{n}", 2.0 + step) for n in (1, 8)} <= earned
    assert fake.finished == 2


def test_a_fault_of_wandb_ends_its_log_alone(tmp_path, monkeypatch, capsys):
    fake = FakeWandb()
    fake.log = lambda numbers, step: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with MetricsLog(tmp_path, wandb_settings={}) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.5})
    assert pd.read_csv(tmp_path / "metrics.csv")["step"].tolist() == [1, 2]
    assert capsys.readouterr().err.count("no wandb log from here on") == 1
