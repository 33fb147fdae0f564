"""Without locks, as on some network disks, the cache works, and a line warns of other processes.

With locks, a line says that one is waited for."""

import errno
import fcntl
import subprocess
import sys

import pytest
from fabricated import make_episode

import datasets
from datasets.cache import cache_path
from datasets.locks import read_lock, write_lock


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(monkeypatch, request):
    """Makes locks fail in this process; HDF5 asks the system itself."""

    def unsupported(handle, operation):
        raise OSError(request.param, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)


def test_a_buffer_is_cached_grown_and_relabelled(no_locks, buffer, capsys):
    """One line warns. More episodes mean a new cache, as other processes may build one, too."""
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    assert store.returns("walker_run").shape == (12,)
    datasets.write_episode(buffer, 12, make_episode(seed=12))
    again = datasets.Store(datasets.build_cache(buffer, progress=False))
    expected = datasets.relabel(make_episode(seed=12).physics, "walker_run")[1:]
    assert (again.rewards("walker_run", [12])[0] == expected).all()
    assert (
        capsys.readouterr().err.count(
            "cannot be locked (No locks available): let no two processes work there"
        )
        == 1
    )
    assert {path.name for path in buffer.parent.iterdir()} == {
        "buffer",
        "buffer.h5",
        "buffer.lock",
        "buffer.rewards_exorl",
        "buffer.rewards_exorl.lock",
    }


@pytest.mark.parametrize("wait", [read_lock, write_lock])
def test_who_waits_for_another_process_says_so(wait, tmp_path, monkeypatch):
    said = []
    (tmp_path / "buffer.lock").touch()
    with (tmp_path / "buffer.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def told(line, file):
            said.append(line)
            fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr("datasets.locks.tqdm.write", told)
        for _ in range(2):  # the second time there is nothing to wait for
            with wait(tmp_path / "buffer.h5"):
                pass
    assert said == [f"{tmp_path / 'buffer.lock'}: waits for another process that holds it"]


def test_hdf5_itself_takes_no_lock(buffer):
    """HDF5's own locks would fail where there are none.

    Here another handle locks the files, and HDF5 with its own locks fails.
    """
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    store.relabel(["walker_run"], progress=False)
    rewards = buffer.parent / "buffer.rewards_exorl" / "walker_run.h5"
    with cache_path(buffer).open() as cache, rewards.open() as file:
        for held in (cache, file):
            fcntl.flock(held, fcntl.LOCK_EX)
        script = f"import h5py; h5py.File({str(rewards)!r}, locking=True)"
        assert (
            "unable to lock file"
            in subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr
        )
        datasets.write_episode(buffer, 12, make_episode(seed=12))
        assert datasets.Store(datasets.build_cache(buffer, progress=False)).returns(
            "walker_run"
        ).shape == (13,)
