"""Parts of long work that a kill left are taken if they are whole and of the same settings."""

import pytest

from agentic_transformer.evaluation.partial_results import PartialResults


def test_a_part_is_there_whole_or_not_at_all(tmp_path, capsys):
    folder, settings = tmp_path / "unfinished", {"seed": 1}
    parts = PartialResults(folder, settings)

    def killed(path):
        path.write_text("the first ha")
        raise KeyboardInterrupt

    parts.put("own.csv", lambda path: path.write_text("whole"))
    for name in ("other.csv", "own.csv"):
        with pytest.raises(KeyboardInterrupt):
            parts.put(name, killed)
    again = PartialResults(folder, settings)
    assert again.has("own.csv") and not again.has("other.csv")
    assert not again.has("own.csv", "other.csv")
    assert (folder / "own.csv").read_text() == "whole"
    assert capsys.readouterr().out == ""
    assert not PartialResults(folder, {"seed": 2}).has("own.csv")
    said = "unfinished results are dropped, since they differ in: seed\n"
    assert capsys.readouterr().out == said
