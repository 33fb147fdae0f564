"""Records are read whole or refused by name, and joined without counting a run twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agentic_transformer.config import EvalConfig
from agentic_transformer.evaluation.records import UNIT, join, read_records, read_table
from agentic_transformer.evaluation.statistics import compare
from tests.evaluation.test_statistics import make_records

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def test_the_same_run_twice_is_refused():
    table = make_records([[1.0, 2.0]])
    for again in (table, table.assign(**{"return": 9.0})):  # it may have been trained anew
        with pytest.raises(ValueError, match="two of the runs hold the same records"):
            join([table, again])
    assert len(join([table, make_records([[1.0, 2.0]], seed=1)])) == 4
    assert len(join([table, table.assign(eval_seed=1)])) == 4  # the same run, evaluated anew


def test_bad_records_are_named(tmp_path):
    path = tmp_path / "records.csv"
    make_records([[1.0, 2.0]]).drop(columns="return").to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"records.csv lacks the columns \['return'\]"):
        read_records(path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="empty.csv cannot be read"):
        read_records(tmp_path / "empty.csv")
    whole = make_records([[1.0, 2.0]])
    whole.to_csv(path, index=False)
    path.write_text(path.read_text()[:-8])
    with pytest.raises(ValueError, match="records.csv lacks values in line 3"):
        read_records(path)
    whole.assign(condition="owm").to_csv(path, index=False)
    with pytest.raises(ValueError, match="unknown condition 'owm' in line 2"):
        read_records(path)
    once = make_records([[1.0, 2.0]])
    for again in (once, once.assign(**{"return": 9.0})):
        pd.concat([once, again]).to_csv(path, index=False)
        with pytest.raises(ValueError, match="two rows with the same .* line 4"):
            read_records(path)


@pytest.mark.parametrize("name", ["NA", "nan", "None", "null", "1.5", "007", "True"])
def test_a_name_stays_the_text_that_it_is(name, tmp_path):
    path = tmp_path / "records.csv"
    make_records([[1.0, 2.0]]).assign(agent=name, task=name).to_csv(path, index=False)
    read = read_records(path)
    assert read["agent"].tolist() == read["task"].tolist() == [name, name]
    written = compare(pd.concat([read, read.assign(condition="no_context")]))
    assert len(written) == 2
    for column in ("agent", "baseline", "task"):
        again = read_table(written.to_csv(index=False).encode())[column]
        assert again.tolist() == written[column].tolist() == [name, name]


def test_a_column_of_the_version_before_is_read_with_one_warning_line(tmp_path, capsys):
    path = tmp_path / "records.csv"
    table = make_records([[1.0, 2.0]]).assign(repeat_miss_rate=[np.nan, 0.25])
    table.rename(columns={"repeat_miss_rate": "again"}).to_csv(path, index=False)
    read = read_records(path)
    assert read["repeat_miss_rate"].tolist()[1] == 0.25 and "again" not in read
    said = capsys.readouterr().err
    assert said == f"warning: {path}: the column again is repeat_miss_rate now\n"
    read.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_records(path), read)
    assert capsys.readouterr().err == ""


def test_records_that_do_not_tell_the_seed_of_the_evaluation_are_of_the_default(tmp_path):
    path, told = tmp_path / "records.csv", make_records([[1.0, 2.0]])
    told.drop(columns=["eval_seed"]).to_csv(path, index=False)
    assert read_records(path)["eval_seed"].tolist() == [EvalConfig().seed] * 2
    told.assign(eval_seed=7).to_csv(path, index=False)
    assert read_records(path)["eval_seed"].tolist() == [7, 7]
    told.assign(eval_seed=[7, np.nan]).to_csv(path, index=False)
    with pytest.raises(ValueError, match="records.csv lacks values in line 3"):
        read_records(path)


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*/records.csv.gz")), ids=lambda p: p.parent.name
)
def test_committed_records_are_read(path):
    records = read_records(path)
    assert len(records) and not records[UNIT].isna().any(axis=None)
