"""A folder is there whole or not at all, also if two processes make it at once."""

import errno

import pytest

from datasets.new_folder import new_folder


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_second_process_leaves_the_folder_of_the_first(tmp_path):
    with new_folder(tmp_path / "made") as partial:
        (partial / "first").touch()
        refused = pytest.raises(ValueError, match="made: another process makes it")
        with refused, new_folder(tmp_path / "made"):
            pass
        (partial / "last").touch()
    assert names(tmp_path) == {"made", "made/first", "made/last"}


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".made.part"
    (left / "inner").mkdir(parents=True)
    (left / "inner" / "half").touch()
    (left / "half").touch()
    with new_folder(tmp_path / "made") as partial:
        (partial / "whole").touch()
    assert names(tmp_path) == {"made", "made/whole"}


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "made") as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == set()


def test_without_locks_a_folder_is_made(tmp_path, monkeypatch):
    def unsupported(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with new_folder(tmp_path / "made") as partial:
        (partial / "whole").touch()
    assert names(tmp_path) == {"made", "made/whole"}
