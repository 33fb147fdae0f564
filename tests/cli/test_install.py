"""`make install` tells of a GPU that would not be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.packages import ROOT


def install(tmp_path, extras, *, gpu):
    """Runs `.ci/install` for an environment that is whole, on a machine with a GPU or not.

    There is an NVIDIA GPU where `nvidia-smi` succeeds.
    """
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nexit {0 if gpu else 1}\n")
    smi.chmod(0o755)
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    files = ("pyproject.toml", f"constraints/py{version}.txt", ".ci/install")
    wanted = f"{ROOT}\n{version} {','.join(['test', *extras])}\n"
    wanted += "".join((ROOT / name).read_text() for name in files)
    (tmp_path / "installed").write_text(wanted)
    return subprocess.run(
        [ROOT / ".ci/install", sys.executable, tmp_path, ",".join(extras)],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(
    Path("/proc/driver/nvidia/gpus").is_dir(),
    reason="this machine has an NVIDIA GPU",
)
@pytest.mark.parametrize(
    ("extras", "gpu", "told"),
    [((), True, True), (("peers",), True, True), ((), False, False), (("cuda13",), True, False)],
)
def test_a_gpu_that_is_not_used_is_told_of(extras, gpu, told, tmp_path):
    done = install(tmp_path, extras, gpu=gpu)
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.splitlines()) == told
    assert told == ("EXTRAS=cuda13" in done.stdout) == ("EXTRAS=cuda12" in done.stdout)


def test_two_builds_for_gpus_are_one_too_many(tmp_path):
    done = install(tmp_path, ("cuda12", "cuda13"), gpu=False)
    assert done.returncode == 2 and "cuda12 or cuda13, not both" in done.stderr
