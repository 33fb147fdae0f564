"""`make install` tells of a GPU that would not be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.packages import ROOT


def install(tmp_path, extras, *, gpu, asked=None):
    """Runs `.ci/install` for an environment that is whole, on a machine with a GPU or not.

    There is an NVIDIA GPU where `nvidia-smi` succeeds. The environment has the extras; `asked` are
    those that this installation names, if they are others.
    """
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nexit {0 if gpu else 1}\n")
    smi.chmod(0o755)
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    files = ("pyproject.toml", f"constraints/py{version}.txt", ".ci/install")
    wanted = f"{ROOT}\n{version} {','.join(['test', *extras])}\n"
    wanted += "".join((ROOT / name).read_text() for name in files)
    (tmp_path / "installed").write_text(wanted)
    named = extras if asked is None else asked
    return subprocess.run(
        [ROOT / ".ci/install", sys.executable, tmp_path, ",".join(named)],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


has_no_gpu = pytest.mark.skipif(
    Path("/proc/driver/nvidia/gpus").is_dir(),
    reason="this machine has an NVIDIA GPU",
)


@has_no_gpu
@pytest.mark.parametrize(
    ("extras", "gpu", "told"),
    [((), True, True), (("peers",), True, True), ((), False, False), (("cuda13",), True, False)],
)
def test_a_gpu_that_is_not_used_is_told_of(extras, gpu, told, tmp_path):
    done = install(tmp_path, extras, gpu=gpu)
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.splitlines()) == told
    assert told == ("EXTRAS=cuda13" in done.stdout) == ("EXTRAS=cuda12" in done.stdout)


@pytest.mark.parametrize(
    "extras", [("cuda12",), ("cuda13", "peers"), pytest.param((), marks=has_no_gpu)]
)
def test_a_command_that_names_no_extras_keeps_those_that_are_installed(extras, tmp_path):
    """Else it would install anew, which says so, and forget them."""
    done = install(tmp_path, extras, gpu="cuda" in str(extras), asked=())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "installed").read_text().splitlines()[1].endswith(",".join(extras))


def test_two_builds_for_gpus_are_one_too_many(tmp_path):
    done = install(tmp_path, ("cuda12", "cuda13"), gpu=False)
    assert done.returncode == 2 and "cuda12 or cuda13, not both" in done.stderr
