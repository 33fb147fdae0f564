"""Commands on data that go wrong: one line, no traceback."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import datasets
from tests.cli.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """Runs a command in an empty folder: its exit code, and the lines of stderr."""

    def start(command, *words, **environment):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{command}", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stderr.splitlines(), done.stdout

    return start


@pytest.fixture
def buffer(tmp_path):
    """Where `experiments.collect task=point_mass_goal data.algo=random` puts two episodes."""
    folder = datasets.buffer_folder(tmp_path / "data", "point_mass_goal", "random")
    datasets.collect("point_mass_goal", folder, episodes=2, progress=False)
    return folder


def test_collect_into_a_buffer_whose_metadata_are_empty(run, buffer):
    (buffer / "metadata.json").write_text("")
    code, errors, _ = run("collect", "data.algo=random", "data.episodes=3")
    assert code == 2
    (line,) = errors
    assert "metadata.json: cannot be read" in line and "choose another folder" in line


def test_collect_into_a_place_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").touch()
    code, errors, _ = run("collect", "data.algo=random", "data.episodes=2", "data.root=file/data")
    assert code == 2
    (line,) = errors
    assert "cannot be written (Not a directory)" in line and "choose another folder" in line


def test_verify_names_a_file_that_holds_objects(run, buffer):
    path = datasets.buffer_folder("data", "point_mass_goal", "random")
    with np.load(buffer / "episode_000001_12.npz") as episode:
        arrays = dict(episode)
    arrays["reward"] = np.array([[None]] * 13, object)
    np.savez(buffer / "episode_000001_12.npz", **arrays)
    code, _, out = run("verify", f"path={path}")
    assert code == 1
    assert "episode_000001_12.npz: reward.npy holds Python objects" in out
    assert "1 with problems" in out


def test_verify_takes_the_domain_from_a_key(run, buffer, tmp_path):
    buffer.rename(tmp_path / "mine")
    code, _, out = run("verify", "path=mine", "domain=walker")
    assert code == 1 and "nearest match: point_mass" in out


def test_download_without_a_network(run, tmp_path):
    """Through a proxy where nobody listens: no name is looked up, wherever this test runs."""
    with socket.socket() as taken:  # which no other process can listen at
        taken.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{taken.getsockname()[1]}"
        environment = {"https_proxy": proxy, "no_proxy": ""}
        code, errors, out = run("download", "domain=walker", "algo=rnd", **environment)
    assert code == 1
    (line,) = errors
    assert "rnd.zip: cannot be reached through the proxy of https_proxy" in line
    assert "data/walker/rnd.zip" in line
    assert "connecting to https://" in out
    assert not list(tmp_path.iterdir())
