"""Process 0 tells the others how its part ended, whatever ended it."""

import pytest

from agentic_transformer.training import distributed
from experiments.cli.preemption import Stopped


@pytest.mark.parametrize("error", [None, ValueError("broken"), Stopped(15), KeyboardInterrupt()])
def test_the_others_never_wait_for_a_process_that_ended(monkeypatch, error):
    told = []
    monkeypatch.setattr(distributed, "is_first", lambda: True)
    monkeypatch.setattr(distributed, "broadcast", told.append)
    try:
        with distributed.first_process_first():
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    assert told == [error is None]


def test_the_others_fail_with_process_0(monkeypatch):
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    monkeypatch.setattr(distributed, "broadcast", lambda value: False)
    with pytest.raises(ValueError, match="process 0 failed"), distributed.first_process_first():
        pass
