"""The cache lies beside the episodes or where data.cache says, and is whole or absent."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
from agentic_transformer.config import DataConfig, TrainCommand
from agentic_transformer.contexts.training_data import open_store
from experiments.cli import resuming, run_folder

ROOT = Path(__file__).parents[2]
# A limit on the size of files stands for a disk that becomes full.
FULL = """
import resource, sys
import datasets
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    store = datasets.Store(datasets.build_cache(sys.argv[1], progress=False))
    store.relabel(["walker_run"], progress=False)
except ValueError as error:
    print(error)
    sys.exit(2)
"""


def tree(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_nothing_is_written_beside_the_episodes(tmp_path):
    """With data.cache=<folder> a buffer may lie on a read-only disk."""
    config = DataConfig(root=str(tmp_path / "data"), algo="rnd", cache=str(tmp_path / "place"))
    buffer = make_buffer(tmp_path / "data" / "walker" / "rnd" / "buffer", 3)
    before = tree(tmp_path / "data")
    store = open_store("walker_run", config)
    expected = datasets.relabel(make_episode(seed=2).physics, "walker_run")[1:]
    np.testing.assert_array_equal(store.rewards("walker_run", [2])[0], expected)
    assert tree(tmp_path / "data") == before
    kept = (tmp_path / "place").joinpath(*buffer.parent.parts[1:])
    assert tree(kept) == {
        "buffer.h5",
        "buffer.lock",
        "buffer.rewards_exorl",
        "buffer.rewards_exorl.lock",
        "buffer.rewards_exorl/walker_run.h5",
    }


def test_two_buffers_in_one_place_keep_apart(tmp_path, monkeypatch):
    """Two folders may have a data set of one name; a relative path finds the same cache again."""
    monkeypatch.chdir(tmp_path)
    places = {}
    for root, count in (("a", 3), ("b", 5)):
        buffer = make_buffer(tmp_path / root / "walker" / "rnd" / "buffer", count)
        places[root] = datasets.build_cache(buffer, place="place", progress=False)
        assert (
            datasets.build_cache(
                Path(root, "walker", "rnd", "buffer"), place="place", progress=False
            )
            == places[root]
        )
    assert [datasets.Store(path).episodes for path in places.values()] == [3, 5]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_one_line(buffer, monkeypatch, code):
    """The error names the setting that helps. An existing cache is still read."""
    opened = Path.open

    def refuse(path, mode="r", *arguments):
        if path.parent == buffer.parent and mode != "r":
            raise OSError(code, "?")
        return opened(path, mode, *arguments)

    before = tree(buffer.parent)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(
            ValueError, match=r"rnd: cannot be written \(.*\); data.cache=<folder> names another"
        ) as error:
            datasets.build_cache(buffer, progress=False)
    assert "\n" not in str(error.value)
    assert tree(buffer.parent) == before
    cache = datasets.build_cache(buffer, progress=False)
    monkeypatch.setattr(Path, "open", refuse)
    assert datasets.build_cache(buffer, progress=False) == cache


@pytest.mark.parametrize("place", ["/proc/nowhere", "a file"])
def test_a_place_that_is_no_folder_is_one_line(buffer, tmp_path, monkeypatch, place):
    """A mistyped data.cache is an error of one line."""
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    with pytest.raises(
        ValueError, match=r"cannot be written \(.*\); data.cache=<folder> names another"
    ):
        datasets.build_cache(buffer, place=place, progress=False)


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """The disk may become full at any time.

    The error is one line, HDF5 does not crash, earlier files stay and no new ones are left.
    """
    buffer = make_buffer(tmp_path / "buffer", 40, length=300)

    def run(limit):
        command = [sys.executable, "-c", FULL, str(buffer), str(limit)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    episodes = tree(tmp_path)
    for limit in (0, 1 << 16, 1 << 20):
        done = run(limit)
        assert (done.returncode, done.stderr) == (2, "")
        assert "cannot be written (File too large); data.cache=<folder>" in done.stdout
        assert tree(tmp_path) == episodes | {"buffer.lock"}
    datasets.build_cache(buffer, progress=False)
    before = tree(tmp_path)
    done = run(1 << 10)  # room for no rewards
    assert (done.returncode, done.stderr) == (2, "")
    assert tree(tmp_path) == before | {"buffer.rewards_exorl", "buffer.rewards_exorl.lock"}
    assert datasets.Store(datasets.build_cache(buffer, progress=False)).returns(
        "walker_run"
    ).shape == (40,)


def test_a_killed_relabelling_leaves_nothing_that_the_next_does_not_take(buffer, monkeypatch):
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    kept = buffer.parent / "buffer.rewards_exorl"
    for _ in range(2):
        if not os.fork():
            monkeypatch.setattr("datasets.reward_store.progress_bar", lambda *_, **__: os._exit(0))
            store.relabel(["walker_run"], progress=False)
        os.wait()
        assert not (kept / "walker_run.h5").exists() and len(tree(kept)) == 1
    store.relabel(["walker_run"], progress=False)
    assert tree(kept) == {"walker_run.h5"}


def test_a_disk_that_becomes_full_spoils_no_cache(tmp_path):
    """If new episodes do not fit, the old cache can be read, and takes them once there is room."""
    buffer = make_buffer(tmp_path / "buffer", 10, length=300)
    cache = datasets.build_cache(buffer, progress=False)
    for index in range(10, 20):
        datasets.write_episode(buffer, index, make_episode(300, index))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (cache.stat().st_size, unlimited[1]))
    try:
        with pytest.raises(ValueError, match="File too large"):
            datasets.build_cache(buffer, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert datasets.Store(cache, budget=0).load(range(10)).action.shape == (10, 300, 6)
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    np.testing.assert_array_equal(store.load([19]).action[0], make_episode(300, 19).action[1:])


def test_a_run_goes_on_with_its_data_and_its_cache_elsewhere(tmp_path):
    """The places change nothing that is learned; which data they are does."""
    run_folder.write_description(tmp_path, TrainCommand(), [], {})
    for place in ("cache", "root"):
        resuming.check_same(tmp_path, TrainCommand(data=DataConfig(**{place: "elsewhere"})))
    with pytest.raises(ValueError, match="data.algo"):
        resuming.check_same(tmp_path, TrainCommand(data=DataConfig(algo="mppi")))
