"""A collection whose record cannot be read ends in one line, before anything is changed."""

import json

import pytest

import datasets

WAY = {"seed": 0, "collector": "random", "progress": False}


BROKEN = {
    "empty": b"",
    "cut short": b"{",
    "no facts": b"{}",
    "a list": b"[]",
    "null": b"null",
    "no text": b"\xff\xfe",
    "zeros": b"\0" * 400,
    "other facts": b'{"task": "point_mass_goal", "settings": 3}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_metadata(content, tmp_path):
    datasets.collect("point_mass_goal", tmp_path, episodes=2, **WAY)
    (tmp_path / "metadata.json").write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = "metadata.json: .*; restore it, or choose another folder"
    with pytest.raises(ValueError, match=said) as told:
        datasets.collect("point_mass_goal", tmp_path, episodes=3, **WAY)
    assert "\n" not in str(told.value)
    assert told.value.__context__ is None or told.value.__suppress_context__
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_metadata_that_is_no_file(tmp_path):
    (tmp_path / "metadata.json").mkdir()
    with pytest.raises(ValueError, match="cannot be read .*; restore it"):
        datasets.collect("point_mass_goal", tmp_path, episodes=1, **WAY)


def test_a_buffer_from_before_goes_on_and_that_is_said(tmp_path, capsys):
    """Its episodes took a path that their stored actions do not quite repeat."""
    metadata = datasets.collect("point_mass_goal", tmp_path, episodes=1, **WAY)
    assert metadata.pop("actions") == "float32"
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    assert datasets.collect("point_mass_goal", tmp_path, episodes=1, **WAY) == metadata
    assert capsys.readouterr().out == ""
    assert datasets.collect("point_mass_goal", tmp_path, episodes=2, **WAY)["actions"] is None
    assert "rounded after they were executed" in capsys.readouterr().out
