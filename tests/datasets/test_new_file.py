"""A file is there whole or not at all, and the error of a full disk names it."""

import errno
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import datasets
from agentic_transformer.run_files import write_whole
from datasets.hdf5_files import new_hdf5
from datasets.new_file import new_file, remove_partial_files
from tests.processes import environment

WRITER = """
import sys, time
from pathlib import Path
from datasets.new_file import new_file, remove_partial_files
with new_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("begun", flush=True)
    time.sleep(600)
"""


@contextmanager
def writer(path):
    """A process that has begun to write a file; it ends by SIGKILL, at the latest with the block.

    Yields it and the hidden file that it writes."""
    before = set(path.parent.iterdir())
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], env=environment(), stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"begun\n"
            (partial,) = set(path.parent.iterdir()) - before
            yield process, partial
        finally:
            process.kill()


@pytest.mark.slow
def test_a_collection_removes_what_a_killed_one_left_and_spares_what_a_live_one_writes(tmp_path):
    buffer = datasets.buffer_folder(tmp_path, "point_mass_goal", "pd")

    def collect():
        datasets.collect("point_mass_goal", buffer, episodes=2, collector="pd", progress=False)

    collect()
    there = set(buffer.iterdir())
    for name in ("episode_000001_12.npz", "metadata.json"):
        with writer(buffer / name) as (process, partial):
            collect()
            assert set(buffer.iterdir()) == there | {partial}
            process.kill()
            process.wait()
            assert partial.read_text() == "half"
            collect()
            assert set(buffer.iterdir()) == there


@pytest.mark.slow
def test_a_file_that_a_killed_process_left_half_written_goes_with_the_next_write(tmp_path):
    path = tmp_path / "status.json"
    with writer(path) as (process, partial):
        write_whole(path, "first")
        assert set(tmp_path.iterdir()) == {path, partial}
        process.kill()
        process.wait()
        write_whole(path, "second")
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]
    assert path.read_text() == "second"


def test_without_locks_nothing_is_taken_for_a_dead_processs(tmp_path, monkeypatch):
    def unsupported(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    (tmp_path / ".a.npz.7.partial").touch()
    remove_partial_files(tmp_path, "*.npz")
    write_whole(tmp_path / "a.npz", "whole")
    assert {each.name for each in tmp_path.iterdir()} == {"a.npz", ".a.npz.7.partial"}


def test_processes_of_one_number_on_two_machines_write_files_of_their_own(tmp_path, monkeypatch):
    """As in two containers that share a disk; here all are of one number, and no lock holds."""
    monkeypatch.setattr("fcntl.flock", lambda handle, operation: None)
    with new_file(tmp_path / "a.npz") as first:
        first.write_text("first")
        with new_file(tmp_path / "a.npz") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert (tmp_path / "a.npz").read_text() == "first"
    one, other = (new_hdf5(tmp_path / "a.h5", alone=False) for _ in range(2))
    with one as first, other as second:
        assert first.filename != second.filename
    assert {each.name for each in tmp_path.iterdir()} == {"a.npz", "a.h5"}


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
