"""Folders of runs that can or cannot be made."""

from pathlib import Path

import pytest

from agentic_transformer.errors import UserError
from experiments.cli.run_folder import open_folder


def test_a_new_folder_is_made_and_undone(tmp_path):
    parent = tmp_path / "runs" / "task"
    opened = open_folder(parent, None, resume=False)
    assert opened.path.parent == parent and opened.path.is_dir()
    opened.undo()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_place_of_the_parent_is_refused(tmp_path, named, below):
    file = tmp_path / "file"
    file.write_text("somebody's work")
    parent = file / "task" if below else file
    with pytest.raises(UserError, match="a place where a folder can be made"):
        open_folder(parent, parent / "mine" if named else None, resume=False)
    assert file.read_text() == "somebody's work"


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that refuses root as well")
def test_a_parent_that_cannot_be_written_is_refused(named):
    """In /proc nobody makes a folder, whoever asks; elsewhere root makes one everywhere."""
    parent = Path("/proc/self")
    with pytest.raises(UserError, match="a place where a folder can be made") as error:
        open_folder(parent / "runs", parent / "mine" if named else None, resume=False)
    assert str(parent) in str(error.value)


def test_a_folder_that_others_removed_is_made_again(tmp_path, monkeypatch):
    parent, make = tmp_path / "runs", type(tmp_path).mkdir

    def mkdir(path, *args, **options):
        make(path, *args, **options)
        if path == parent and not seen:
            seen.append(path)
            path.rmdir()

    seen = []
    monkeypatch.setattr(type(tmp_path), "mkdir", mkdir)
    opened = open_folder(parent, None, resume=False)
    assert seen and opened.path.is_dir()
    assert opened.made == [opened.path, parent]
