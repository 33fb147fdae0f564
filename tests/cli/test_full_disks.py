"""What the file system refuses is told in one line, whoever noticed it."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentic_transformer.training.checkpoint_reader import CheckpointReader
from experiments.cli.compilation_cache import VARIABLE
from experiments.cli.user_errors import describe, is_user_error, needs_traceback
from tests import processes
from tests.small_agents import labelled


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_write_that_fails_without_a_name(number):
    error = OSError(number, "No room")
    assert describe(error) == "a file that was being written: No room"
    assert not needs_traceback(error) and not is_user_error(error)


def test_a_folder_that_cannot_be_copied(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()

    def copy(source, target):
        Path("/dev/full").write_text("content")

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=copy)
    said = describe(caught.value)
    assert said == f"{tmp_path / 'copy' / 'file'}: [Errno 28] No space left on device"


def train(folder, steps, file_size=resource.RLIM_INFINITY):
    """Trains in `folder`, as on a disk that has room for files of a size alone."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    data = ["data.root=.", "data.episodes=8", "data.tasks=2", "agent.trajectories=2"]
    small = ["model.width=64", "model.layers=1", "train.batch=2", "train.checkpoint_every=2"]
    words = [*data, *small, f"train.steps={steps}", "run=run", "resume=true"]
    return subprocess.run(
        [sys.executable, "-m", "experiments.train", *words],
        cwd=folder,
        env=processes.environment(**{VARIABLE: ""}),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, hard)),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_run_whose_disk_fills_up_ends_with_one_line_and_keeps_its_last_checkpoint(tmp_path):
    labelled(tmp_path, episodes=8, tasks=2)
    started = train(tmp_path, steps=1)
    assert started.returncode == 0, started.stderr
    full = train(tmp_path, steps=3, file_size=20_000)
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr + full.stdout
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("experiments.train")]
    assert "/run/checkpoints/2 could not be written" in line
    assert full.stderr.endswith(f"{os.strerror(errno.EFBIG)}\n")
    assert CheckpointReader(tmp_path / "run").newest() == 1
