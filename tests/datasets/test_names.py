"""Files with other names in a buffer are no episodes, and a line says so."""

import pytest
from fabricated import make_buffer

import datasets
from datasets.consistency import domain_of
from datasets.episode import episode_files
from datasets.verification import verify


def strangers(folder):
    """Adds six entries that look like episodes, and others that do not."""
    for name in (
        "traj_0.npz",
        "EPISODE_000000_20.NPZ",
        "episode_000001_20 (1).npz",
        "episode_1.npz",
    ):
        (folder / name).write_bytes(b"")
    for name in (
        "metadata.json",
        "._episode_000001_20.npz",
        "episode_000002_20.npz.part",
        "notes.txt",
        "x.h5",
    ):
        (folder / name).write_bytes(b"")
    for name in ("part1", "part2", "empty", ".hidden"):
        (folder / name).mkdir()
    for name in ("part1/episode_000000_20.npz", "part2/x.npz", ".hidden/x.npz"):
        (folder / name).write_bytes(b"")


SAID = (
    "6 files or folders of another name left out, first: 'EPISODE_000000_20.NPZ'; "
    "episodes are files such as episode_000000_1000.npz: episode_<number>_<transitions>.npz"
)


def test_the_number_of_ignored_files_is_reported(buffer, capsys):
    """`build_cache` says it each time, and so does `verify`."""
    datasets.build_cache(buffer, progress=False)
    assert capsys.readouterr().out == ""
    assert verify(buffer, progress=False).remarks == []
    strangers(buffer)
    store = datasets.Store(datasets.build_cache(buffer, progress=False))
    assert (store.episodes, capsys.readouterr().out) == (12, f"{buffer}: {SAID}\n")
    report = verify(buffer, progress=False)
    assert (report.episodes, report.problems, report.remarks) == (12, {}, [SAID])


def test_a_buffer_of_other_names_alone(tmp_path):
    """The error says what there is, and how files should be named."""
    folder = make_buffer(tmp_path / "buffer", 0)
    with pytest.raises(ValueError, match="no episodes; episodes are files such as"):
        episode_files(folder)
    strangers(folder)
    with pytest.raises(
        ValueError, match="no episodes; 6 files or folders of another name left out"
    ):
        episode_files(folder)


@pytest.mark.parametrize("path", [".", "", "../buffer", "../../rnd/buffer", "../buffer/../buffer"])
def test_a_folder_is_the_same_however_it_is_named(buffer, path, monkeypatch):
    """Its body is known, and its cache lies beside it."""
    monkeypatch.chdir(buffer)
    assert domain_of(path) == "walker"
    assert datasets.build_cache(path, progress=False).resolve() == buffer.with_suffix(".h5")


def test_the_name_of_a_link_counts(buffer, tmp_path):
    link = tmp_path / "cheetah" / "mine" / "buffer"
    link.parent.mkdir(parents=True)
    link.symlink_to(buffer)
    assert domain_of(link) == "cheetah"
