"""A file is there whole or not at all, and the error of a full disk names it."""

import errno
from pathlib import Path

import pytest

import datasets
from agentic_transformer.run_files import write_whole
from datasets.new_file import new_file


def test_a_full_disk_leaves_what_was_there_and_the_error_names_the_file(tmp_path):
    path = tmp_path / "status.json"
    write_whole(path, "before")
    with pytest.raises(OSError, match="No space left on device.*status.json"), new_file(path):
        Path("/dev/full").write_text("after")  # a write says ENOSPC, without a name
    assert path.read_text() == "before"
    with pytest.raises(KeyboardInterrupt), new_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]


def test_an_episode_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    buffer = datasets.buffer_folder(tmp_path, "point_mass_goal", "pd")
    datasets.collect("point_mass_goal", buffer, episodes=1, progress=False)
    (path,) = buffer.glob("*.npz")
    episode = datasets.read_episode(path)
    there = sorted(buffer.iterdir())

    def write_half(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="episode_000007"):
        datasets.write_episode(buffer, 7, episode)
    assert sorted(buffer.iterdir()) == there
