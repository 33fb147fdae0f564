"""A line says so when a buffer's episodes are collected under two versions of something."""

import json

import datasets


def collect(folder, episodes):
    return datasets.collect(
        "point_mass_goal", folder, episodes=episodes, collector="pd", progress=False
    )


def test_episodes_made_by_other_code_are_reported(tmp_path, monkeypatch, capsys):
    """The line counts the new episodes; metadata.json keeps the versions of the newest."""
    before = collect(tmp_path, 2)
    collect(tmp_path, 3)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("datasets.collection_metadata.fingerprint", lambda *modules: "edited")
    monkeypatch.setattr(
        "datasets.collection_metadata.version",
        lambda name: before["versions"][name] if name == "numpy" else "new",
    )
    after = collect(tmp_path, 5)
    changed = "mujoco, dm_control, gymnasium, code"
    more = f"2 more episodes are made under another {changed} than those there"
    assert capsys.readouterr().out == f"{tmp_path}: {more}\n"
    assert after["versions"]["code"] == "edited"
    assert json.loads((tmp_path / "metadata.json").read_text()) == after


def test_a_record_without_the_code_goes_on(tmp_path, capsys):
    """A version that the record lacks is no difference."""
    metadata = collect(tmp_path, 2)
    del metadata["versions"]["code"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    assert "code" in collect(tmp_path, 3)["versions"]
    assert capsys.readouterr().out == ""
