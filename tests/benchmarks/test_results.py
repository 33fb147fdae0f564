"""The results of a suite: what lies in its folder is of one run, which the provenance describes."""

import json

import pytest

from agentic_transformer.errors import UserError
from experiments import benchmark
from experiments.benchmark import BenchmarkCommand
from experiments.benchmarks import agent, ring

PARTS = ("memory", "overlap", "schedule", "speed", "utilisation")


@pytest.fixture
def suite(monkeypatch, tmp_path):
    """Runs the suite `ring`, whose tables have the number of the run, which may lack a part.

    It returns that number by table.
    """

    def run(number, without=None, interrupted_in=None):
        def rows(part, devices):
            name = part.__name__.strip("_")
            if name == interrupted_in:
                raise KeyboardInterrupt
            return [] if name == without else [{"run": number}]

        monkeypatch.setattr(ring, "_run_in_process", rows)
        try:
            benchmark.main(BenchmarkCommand(suite="ring", out=str(tmp_path)))
        except KeyboardInterrupt:
            assert interrupted_in
        return {path.stem: int(path.read_text().split()[1]) for path in tmp_path.glob("*.csv")}

    monkeypatch.setattr(ring, "plot", lambda folder: None)
    return run


def test_tables_and_provenance_are_of_one_run(suite, tmp_path):
    assert suite(1) == dict.fromkeys(PARTS, 1)
    (tmp_path / "own.txt").write_text("a note")
    others = dict.fromkeys(set(PARTS) - {"schedule"}, 2)
    assert suite(2, without="schedule") == others
    provenance = (tmp_path / "provenance.json").read_text()
    assert json.loads(provenance)["files"] == sorted(f"{name}.csv" for name in others)
    assert suite(3, interrupted_in="speed") == others
    assert (tmp_path / "provenance.json").read_text() == provenance
    assert suite(4) == {
        "overlap": 3,
        "utilisation": 3,
        "speed": 4,
        "memory": 4,
        "schedule": 4,
    }, "a run goes on behind the parts that a kill left"
    names = {f"{name}.csv" for name in PARTS} | {"provenance.json", "own.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_results_of_another_suite_are_kept(suite, tmp_path, monkeypatch):
    suite(1)
    monkeypatch.setattr(agent, "run", lambda folder: None)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="has the results of another command"):
        benchmark.main(BenchmarkCommand(suite="agent", out=str(tmp_path)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
