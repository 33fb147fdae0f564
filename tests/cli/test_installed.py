"""A wheel holds all that the commands need: they work from a copy that is not the repository, in
any folder."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from experiments.cli.packages import PACKAGES
from tests.cli.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel, in a folder that lies in another project's repository."""
    pytest.importorskip("setuptools", minversion="77", reason="builds the wheel")
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "conf"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    line = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    subprocess.run(
        [*line, "--wheel-dir", str(place), str(source)],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = place.glob("*.whl")
    project = place / "project"
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*line, "--target", str(project / "site-packages"), str(built)], check=True)
    shutil.rmtree(source)
    git = ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another project"], check=True)
    return project / "site-packages"


def test_the_wheel_holds_the_same_files_as_the_repository(wheel):
    for package in PACKAGES:
        there = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert there == {path.relative_to(wheel) for path in (wheel / package).rglob("*.py")}
    configs = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert configs == {
        path.relative_to(wheel / "experiments/conf")
        for path in (wheel / "experiments/conf").rglob("*.yaml")
    }
    others = {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"}
    assert others == {*PACKAGES, "bin"}  # "bin" has the one command
    assert [path.name for path in (wheel / "bin").iterdir()] == ["agentic-transformer"]


def test_an_installed_copy_collects_and_trains(wheel, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"}

    def run(name, *words):
        line = [wheel / "bin" / "agentic-transformer", name, *words]
        return subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )

    assert "train.steps=2000" in run("train", "--help").stdout
    assert "nearest: train" in run("trian").stderr and run("trian").returncode == 2
    refused = run("benchmark", "suite=faults")
    assert refused.returncode == 2 and "in a clone of the repository" in refused.stderr
    made = run("collect", "data.episodes=8")
    assert made.returncode == 0, made.stderr
    small = [
        "data.episodes=8",
        "train.steps=2",
        "train.batch=4",
        "agent.trajectories=2",
        "model.width=8",
        "model.layers=1",
    ]
    done = run("train", "run=r", *small)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "r"]
    facts = json.loads((tmp_path / "r" / "provenance.json").read_text())
    assert facts["commit"] is None and facts["dirty"] is None
    assert (tmp_path / "r" / "checkpoints" / "2").is_dir()
