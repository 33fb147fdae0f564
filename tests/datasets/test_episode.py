"""Episode files: real variants are read, and damaged ones are refused by name."""

import io
import re
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
from datasets.episode import BadEpisode, episode_files


def save(path, **arrays):
    """Writes arrays without the checks of write_episode."""
    np.savez(path, **arrays)
    return path


def parts(episode):
    """Returns an episode's arrays by name."""
    return {
        key: value for key, value in vars(episode).items() if value is not None and key != "extra"
    }


def test_round_trip(tmp_path):
    """A written episode is read back bit for bit."""
    episode = make_episode(30)
    path = datasets.write_episode(tmp_path, 7, episode)
    assert path.name == "episode_000007_30.npz"
    read = datasets.read_episode(path)
    assert read.length == 30
    for key, value in parts(episode).items():
        np.testing.assert_array_equal(getattr(read, key), value)
        assert getattr(read, key).dtype == value.dtype


def test_variants(tmp_path):
    """URLB's names, four reward columns, physics in float32 and no physics are read."""
    episode = make_episode(25, columns=4, physics=False)
    path = save(tmp_path / "20220101T101112_12_25.npz", **parts(episode))
    read = datasets.read_episode(path)
    assert read.reward.shape == (26, 4)
    assert read.physics is None
    single = parts(make_episode(25)) | {"physics": np.zeros((26, 18), np.float32)}
    assert (
        datasets.read_episode(save(tmp_path / "episode_000001_25.npz", **single)).physics.dtype
        == np.float32
    )


def test_states_without_numbers_are_no_states(tmp_path):
    """They can be cached as those of a set without physics."""
    arrays = parts(make_episode(25)) | {"physics": np.zeros((26, 0))}
    buffer = make_buffer(tmp_path / "buffer", 0)
    path = save(buffer / "episode_000000_25.npz", **arrays)
    assert datasets.read_episode(path).physics is None
    assert datasets.Store(datasets.build_cache(buffer, progress=False)).episodes == 1


def test_order_of_files(tmp_path):
    """Files are ordered by number in either style of name; other files are ignored."""
    for name in (
        "episode_000010_20.npz",
        "episode_000002_20.npz",
        "metadata.json",
        "episode_000003_20.part",
    ):
        (tmp_path / name).touch()
    assert [path.name for path in episode_files(tmp_path)] == [
        "episode_000002_20.npz",
        "episode_000010_20.npz",
    ]
    with pytest.raises(ValueError, match="no episodes"):
        episode_files(make_buffer(tmp_path / "empty", 0))
    with pytest.raises(ValueError, match="no such folder"):
        episode_files(tmp_path / "nowhere")


def test_numbers_of_other_styles_are_numbers(tmp_path):
    """Those of URLB's runs are not padded with zeros."""
    names = [f"20220101T101112_{number}_20.npz" for number in (2, 9, 10, 100)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in episode_files(tmp_path)] == names


def test_arrays_in_the_order_of_fortran_are_read_as_they_are(tmp_path):
    episode = make_episode(25)
    arrays = {key: np.asfortranarray(value) for key, value in parts(episode).items()}
    read = datasets.read_episode(save(tmp_path / "episode_000001_25.npz", **arrays))
    for key, value in parts(episode).items():
        np.testing.assert_array_equal(getattr(read, key), value)


def flipped(path):
    """Flips one bit of compressed data."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path):
    """Keeps half of the file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    """Keeps no bytes."""
    path.write_bytes(b"")


def with_objects(path):
    """Adds pickled content."""
    save(path, **parts(make_episode()) | {"reward": np.array([[None]] * 21, object)})


def giant(path):
    """Writes a header that claims 3.6 TiB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 1000)}
    )
    save(
        path, **{key: value for key, value in parts(make_episode()).items() if key != "observation"}
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("observation.npy", header.getvalue() + bytes(1000))


def with_nan(path):
    """Writes one NaN."""
    observation = make_episode().observation.copy()
    observation[3, 4] = np.nan
    save(path, **parts(make_episode()) | {"observation": observation})


def with_infinity(path):
    """Writes one infinite value."""
    reward = make_episode().reward.copy()
    reward[3] = -np.inf
    save(path, **parts(make_episode()) | {"reward": reward})


def uneven(path):
    """Writes arrays of different lengths."""
    save(path, **parts(make_episode()) | {"action": make_episode().action[:-1]})


def lacking(path):
    """Leaves out the discount."""
    save(path, **{key: value for key, value in parts(make_episode()).items() if key != "discount"})


def rowless(path):
    """Writes arrays without rows, in float64."""
    save(path, **{key: value[:0].astype(float) for key, value in parts(make_episode()).items()})


FAULTS = [
    flipped,
    truncated,
    emptied,
    with_objects,
    giant,
    with_nan,
    with_infinity,
    uneven,
    lacking,
    rowless,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_bad_files_are_refused(tmp_path, fault):
    """The error names the file, and takes less than 100 MB of memory."""
    path = datasets.write_episode(tmp_path, 0, make_episode())
    fault(path)
    tracemalloc.start()
    with pytest.raises(BadEpisode, match=path.name):
        datasets.read_episode(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", ["observation", "action", "reward", "discount", "demonstrator"])
def test_arrays_without_columns_are_refused(tmp_path, key, dtype):
    """They are a problem of the file, and stop neither the check of the others nor this one."""
    buffer = make_buffer(tmp_path / "buffer", 2)
    path = buffer / "episode_000001_20.npz"
    save(path, **parts(make_episode()) | {key: np.zeros((21, 0), dtype)})
    said = f"{key} has no columns; expected at least 1"
    with pytest.raises(BadEpisode, match=f"{path}: {said}"):
        datasets.build_cache(buffer, progress=False)
    assert datasets.verify(buffer, progress=False).problems == {path.name: said}


def test_wrong_length_in_name(tmp_path):
    """A file shorter or longer than its name says is refused."""
    for said in (1000, 19):
        path = tmp_path / f"episode_000000_{said}.npz"
        datasets.write_episode(tmp_path, 0, make_episode()).rename(path)
        with pytest.raises(BadEpisode, match=f"holds 20 transitions; the name says {said}"):
            datasets.read_episode(path)


@pytest.mark.parametrize("name", ["episode_000000_{}.npz", "mine.npz"])
@pytest.mark.parametrize("rows", [0, 1])
def test_an_episode_without_transitions_is_refused(tmp_path, name, rows):
    """Also where the name says that it has none."""
    path = tmp_path / name.format(max(rows - 1, 0))
    save(path, **{key: value[:rows] for key, value in parts(make_episode()).items()})
    said = f"{path}: rows: {rows}; expected at least 2, the reset and one transition"
    with pytest.raises(BadEpisode, match=f"^{re.escape(said)}$"):
        datasets.read_episode(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reward": np.full((21, 1), 1e39)}, "reward reaches 1e+39, beyond float32, as which it"),
        ({"reward": np.full((21, 1), "a")}, "reward is <U1 of shape (21, 1); expected floats"),
        ({"reward": None}, "lacks reward; an episode has"),
        ({"physics": np.zeros(21)}, "physics is float64 of shape (21,); expected floats"),
        ({"extra": {"reward": np.zeros((21, 1))}}, "extra holds reward; allowed: other names"),
        ({"extra": {"file": np.zeros((21, 1))}}, "extra holds file; allowed: other names"),
    ],
)
def test_what_is_no_episode_is_not_written(changes, says, tmp_path):
    """Nor is a folder made for it."""
    with pytest.raises(ValueError) as told:
        datasets.write_episode(tmp_path / "new", 0, replace(make_episode(), **changes))
    path = tmp_path / "new" / "episode_000000_20.npz"
    assert str(told.value).startswith(f"{path}: {says}")
    assert not path.parent.exists()


def test_a_name_that_no_reader_knows_is_not_written(tmp_path):
    for number in (-1, 1.5):
        with pytest.raises(
            ValueError, match=f"episode {number}; allowed: a whole number, 0 or more"
        ):
            datasets.write_episode(tmp_path, number, make_episode())
    assert not list(tmp_path.iterdir())


def test_lists_and_integers_are_written_as_floats(tmp_path):
    episode, whole = make_episode(), np.arange(21)[:, None]
    lists = replace(episode, reward=whole, physics=episode.physics.tolist())
    read = datasets.read_episode(datasets.write_episode(tmp_path, 0, lists))
    assert (read.reward.dtype, read.physics.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(read.reward, whole)
    np.testing.assert_array_equal(read.physics, episode.physics)


def test_a_bad_file_stops_the_cache(tmp_path):
    folder = make_buffer(tmp_path / "buffer", 3, length=3)
    emptied(folder / "episode_000001_3.npz")
    with pytest.raises(BadEpisode, match="episode_000001_3"):
        datasets.build_cache(folder, progress=False)
    assert not datasets.cache.cache_path(folder).exists()
