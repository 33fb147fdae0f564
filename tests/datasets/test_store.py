"""The cache: appended to, checksummed, shared, and faithful to its episodes."""

import multiprocessing

import h5py
import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
from datasets.rows import Rows, fletcher32
from tests.seeds import rng
from tests.tolerances import unit

WALKER = [f"walker_{mode}" for mode in ("stand", "walk", "run", "flip")]


def build(buffer):
    """The buffer's cache, silently."""
    return datasets.build_cache(buffer, progress=False)


@pytest.mark.parametrize("budget", [1 << 30, 0], ids=["in memory", "on disk"])
def test_faithful(buffer, budget):
    """Trajectories and rewards are those of the files, read from memory and from disk."""
    store = datasets.Store(build(buffer), budget=budget)
    assert (store.episodes, store.observation_size, store.action_size) == (12, 24, 6)
    chosen = store.load([11, 0, 5])
    for place, index in enumerate([11, 0, 5]):
        episode = make_episode(seed=index)
        np.testing.assert_array_equal(chosen.observation[place], episode.observation[:-1])
        np.testing.assert_array_equal(chosen.action[place], episode.action[1:])
        reward = datasets.relabel(episode.physics, "walker_run")[1:]
        np.testing.assert_array_equal(store.rewards("walker_run", [index])[0], reward)
        assert store.returns("walker_run")[index] == pytest.approx(
            reward.sum(dtype=np.float64), rel=unit()
        )  # a sum in float64


def test_lengths_may_differ(tmp_path):
    """Episodes of different lengths share a cache; those read together must agree."""
    folder = make_buffer(tmp_path / "buffer", 3)
    datasets.write_episode(folder, 3, make_episode(33, 3))
    store = datasets.Store(build(folder), budget=0)
    assert store.lengths.tolist() == [20, 20, 20, 33]
    np.testing.assert_array_equal(
        store.load([3]).observation[0], make_episode(33, 3).observation[:-1]
    )
    assert store.returns("walker_flip").shape == (4,)
    with pytest.raises(ValueError, match=r"\[20, 33\]"):
        store.load([0, 3])


def test_appending_reads_only_what_is_new(buffer, monkeypatch):
    """New files are added; rewards are extended; a store opened before goes on as it was."""
    before = datasets.Store(build(buffer), budget=0)
    old = before.rewards("walker_stand")
    read = []
    monkeypatch.setattr(
        "datasets.cache.read_episode",
        lambda path: read.append(path.name) or datasets.read_episode(path),
    )
    for index in (12, 13, 14):
        datasets.write_episode(buffer, index, make_episode(seed=index))
    build(buffer)
    assert read == [f"episode_{index:06d}_20.npz" for index in (12, 13, 14)]
    after = datasets.Store(build(buffer))
    assert (before.episodes, after.episodes) == (12, 15)
    np.testing.assert_array_equal(before.load([11]).action, after.load([11]).action)
    np.testing.assert_array_equal(after.rewards("walker_stand")[:12], old)
    expected = datasets.relabel(make_episode(seed=14).physics, "walker_stand")[1:]
    np.testing.assert_array_equal(after.rewards("walker_stand")[14], expected)


def test_a_buffer_made_anew_is_noticed(buffer):
    """Files of the same names with other content: the cache and its rewards are built anew."""
    old = datasets.Store(build(buffer)).returns("walker_run")
    for index in range(12):
        datasets.write_episode(buffer, index, make_episode(seed=100 + index))
    store = datasets.Store(build(buffer))
    np.testing.assert_array_equal(store.load([3]).action[0], make_episode(seed=103).action[1:])
    expected = datasets.relabel(make_episode(seed=103).physics, "walker_run")[1:]
    np.testing.assert_array_equal(store.rewards("walker_run", [3])[0], expected)
    assert not np.array_equal(store.returns("walker_run"), old)


def test_a_removed_episode_is_in_no_training(buffer):
    """What was found to be bad and removed: the cache and its rewards are built anew without it."""
    datasets.Store(build(buffer)).returns("walker_run")
    next(buffer.glob("episode_000003_*.npz")).unlink()
    store = datasets.Store(build(buffer))
    assert store.episodes == 11
    np.testing.assert_array_equal(store.load([3]).action[0], make_episode(seed=4).action[1:])
    expected = datasets.relabel(make_episode(seed=4).physics, "walker_run")[1:]
    np.testing.assert_array_equal(store.rewards("walker_run", [3])[0], expected)


def test_relabelling_many_tasks(buffer):
    """All tasks of a family at once, both modes; each file is read back by another store."""
    store = datasets.Store(build(buffer))
    for mode in ("exorl", "exact"):
        store.relabel(WALKER, mode, progress=False)
        other = datasets.Store(build(buffer))
        episode = make_episode(seed=4)
        for task in WALKER:
            expected = datasets.relabel(episode.physics, task, mode, episode.action)[1:]
            np.testing.assert_array_equal(other.rewards(task, [4], mode)[0], expected)


def test_seeded_subset(buffer):
    """A subset is drawn, not the earliest exploration; the same seed draws the same one."""
    cache = build(buffer)
    some, same = (datasets.Store(cache, episodes=5, seed=3) for _ in range(2))
    assert some.episodes == 5
    np.testing.assert_array_equal(some.load(range(5)).action, same.load(range(5)).action)
    assert not np.array_equal(
        some.load(range(5)).action, datasets.Store(cache).load(range(5)).action
    )


def test_every_flipped_bit_is_found(tmp_path):
    """20 of 20 single-bit flips in the stored rows."""
    cache = build(make_buffer(tmp_path / "buffer", 40, length=300))
    good = cache.read_bytes()
    places = []
    with h5py.File(cache) as file:
        for field in ("observation", "action", "physics"):
            chunks = []
            file[field].id.chunk_iter(chunks.append)
            places += [chunk.byte_offset + 5 * index for chunk in chunks for index in range(3)]
    found = 0
    for place in rng(0).choice(places, 20, replace=False):
        data = bytearray(good)
        data[place] ^= 1 << int(place) % 8
        cache.write_bytes(data)
        try:
            store = datasets.Store(cache, budget=0)
            store.load(range(40))
            store.rewards("walker_run")
        except ValueError as error:
            found += "damaged" in str(error) and cache.name in str(error)
    assert found == 20


def test_checksum_is_hdf5s(tmp_path):
    """Ours reads what the library wrote, also where sums are multiples of 65535."""
    data = rng(0)
    cases = [
        np.zeros(8),
        np.full(8, 65535),
        np.array([65535, 0, 1, 2, 3, 4, 5, 6]),
        data.integers(0, 65536, 8),
    ]
    for index, words in enumerate(cases):
        path = tmp_path / f"{index}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "x", data=words.astype(">u2"), maxshape=(None,), chunks=(8,), fletcher32=True
            )
        assert Rows(path, "x").read(0, 8).tolist() == words.tolist()
    assert fletcher32(bytes(4)) == 0


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: bytes(64) + data[64:]],
)
def test_a_broken_cache_is_named_and_built_anew(buffer, damage):
    """A truncated, emptied or overwritten file: refused by name, and replaced by the next build."""
    cache = build(buffer)
    cache.write_bytes(damage(cache.read_bytes()))
    with pytest.raises(ValueError, match=cache.name):
        datasets.Store(cache)
    assert datasets.Store(build(buffer)).episodes == 12


def _read(cache, seed, queue):
    store = datasets.Store(cache, budget=0)
    data = rng(seed)
    queue.put(
        sum(float(store.load(data.integers(12, size=4)).observation.sum()) for _ in range(50))
    )


def test_several_processes(buffer):
    """Four processes build and read one cache at once and see the same numbers."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    cache = build(buffer)
    processes = [context.Process(target=_read, args=(cache, 0, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    sums = {queue.get(timeout=600) for _ in processes}
    for process in processes:
        process.join()
    assert len(sums) == 1


def test_what_cannot_be_relabelled(tmp_path, buffer):
    """No physics, another domain's physics, a family, a wrong mode: each says so."""
    bare = tmp_path / "bare"
    bare.mkdir()
    datasets.write_episode(bare, 0, make_episode(physics=False))
    with pytest.raises(ValueError, match="no physics"):
        datasets.Store(build(bare)).returns("walker_run")
    store = datasets.Store(build(buffer))
    with pytest.raises(ValueError, match="physics must have shape"):
        store.returns("quadruped_run")
    with pytest.raises(ValueError, match="is a family"):
        store.returns("walker_any")
    with pytest.raises(ValueError, match="nearest match: 'exact'"):
        store.returns("walker_run", mode="exakt")
    with pytest.raises(ValueError, match="needs the rows' actions"):
        datasets.relabel(np.zeros((3, 18)), "walker_run", mode="exact")
