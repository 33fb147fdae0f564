"""What status.json says after each kind of end."""

import pytest

from agentic_transformer.errors import UserError
from experiments.cli import preemption
from experiments.cli.run_status import read_status, status_after, track_status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (preemption.Stopped(15), {"state": "stopped", "signal": "SIGTERM"}),
        (KeyboardInterrupt(), {"state": "stopped", "signal": "SIGINT"}),
        (SystemExit(0), {"state": "finished"}),
        (SystemExit(3), {"state": "failed", "error": "exit code 3", "exit_code": 3}),
        (SystemExit("no"), {"state": "failed", "error": "no", "exit_code": 1}),
        (UserError("bad"), {"state": "failed", "error": "bad", "exit_code": 2}),
        (OSError("full"), {"state": "failed", "error": "OSError: full", "exit_code": 1}),
    ],
)
def test_every_end_has_a_status(tmp_path, error, status):
    assert status_after(error) == status
    with pytest.raises(type(error)), track_status(tmp_path, "train"):
        assert read_status(tmp_path)["state"] == "running"
        raise error
    assert read_status(tmp_path).items() >= (status | {"command": "train"}).items()


@pytest.mark.parametrize("error", [None, ValueError(), preemption.Stopped(15)])
def test_a_signal_after_a_sweep_job_has_nothing_to_interrupt(monkeypatch, error):
    monkeypatch.setattr(preemption._State, "job_running", False)
    try:
        with preemption.sweep_job():
            assert preemption._State.job_running
            if error:
                raise error
    except ValueError as raised:
        assert raised is error
    assert not preemption._State.job_running
