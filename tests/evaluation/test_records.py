"""Empty or broken records, logs and settings are one line of an error, whoever reads them."""

import json

import pandas as pd
import pytest

from agentic_transformer.config import PlotCommand, TableCommand
from experiments import plot, table
from experiments.cli.folders import OVERRIDES, runs_within
from experiments.cli.run_status import STATUS
from experiments.reports import figures
from tests.evaluation.test_statistics import make_records
from tests.reports.test_presentation import RETURNS, make_run

RECORDS = make_records(RETURNS).to_csv(index=False)
HEADER = RECORDS.splitlines()[0] + "\n"
BROKEN = {
    "": "cannot be read as a table",
    HEADER: "holds no records, only their header",
    "\n": "cannot be read as a table",
    RECORDS.replace("task_id", "id", 1): r"lacks the columns \['task_id'\]",
    RECORDS.replace("own,0,", "own,first,", 1): "has seed='first' in line 2; it must be a number",
    "\0\0\0": "lacks the columns",
    RECORDS[:-2]: "ends in the middle of line [0-9]+: was it cut short",
}


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run", make_records(RETURNS))
    (run / STATUS).write_text(json.dumps({"state": "finished"}))
    (tmp_path / OVERRIDES).write_text("- seed=0\n")  # the folder is that of a sweep
    return run


@pytest.mark.parametrize(("text", "says"), BROKEN.items())
def test_broken_records_are_one_line_of_plot(run, text, says):
    (run / "records.csv").write_text(text)
    with pytest.raises(ValueError, match=says) as error:
        plot.main(PlotCommand(runs=[str(run)]))
    assert str(run / "records.csv") in str(error.value) and "\n" not in str(error.value)
    assert not (run / "summary.csv").exists()


@pytest.mark.parametrize("name", ["records.csv", "metrics.csv"])
@pytest.mark.parametrize(
    "text", ["\n", HEADER, "a,b\n1,2\n", "step,loss,seconds\n", "step,loss,seconds\na,b,c\n", "\0"]
)
def test_a_broken_job_is_one_line_of_a_table_of_the_others(run, name, text, capsys):
    (run / name).write_text(text)
    make_run(run.parent / "whole", make_records(RETURNS, seed=1))
    (run.parent / "whole" / STATUS).write_text(json.dumps({"state": "finished"}))
    table.main(TableCommand(sweep=str(run.parent)))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(run / name) in said
    made = pd.read_csv(run.parent / "table.csv")
    assert made["job"].tolist() == ["run", "whole"] and made["return own n=3"].iloc[1] == 3.5


@pytest.mark.parametrize(
    "name", ["config.yaml", "provenance.json", "evaluation.json", "metrics.csv", "rollouts.npz"]
)
@pytest.mark.parametrize("text", ["", "{", "eval: 3\n"])
def test_what_stands_beside_records_may_be_broken(run, name, text, monkeypatch):
    """Broken settings are an error, as agents would be mixed up; a broken log costs a picture."""
    for figure in ("return_vs_context", "return_vs_tokens"):  # slow, and not of these files
        monkeypatch.setattr(figures, figure, lambda *_: None)
    (run / name).write_text(text)
    try:
        plot.main(PlotCommand(runs=[str(run)]))
    except ValueError as error:
        assert str(run / name) in str(error) and "\n" not in str(error)
        assert name in ("config.yaml", "evaluation.json")
    else:
        assert (run / "summary.csv").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
@pytest.mark.parametrize("name", ["overrides.yaml", STATUS])
def test_a_job_whose_own_files_are_broken_has_its_line_in_a_table(run, name, text):
    (run / name).write_text(text)
    table.main(TableCommand(sweep=str(run.parent)))
    assert len(pd.read_csv(run.parent / "table.csv")) == 1


def test_a_sweep_is_drawn_from_its_jobs_though_joined_records_lie_in_its_folder(tmp_path):
    """Those of a plot that was made before the last jobs were evaluated."""
    for name in ("0", "1"):
        run = make_run(tmp_path / name, make_records(RETURNS, seed=int(name)))
        (run / STATUS).write_text(json.dumps({"state": "finished"}))
    make_records(RETURNS).to_csv(tmp_path / "records.csv", index=False)
    assert runs_within(tmp_path) == [tmp_path / "0", tmp_path / "1"]
