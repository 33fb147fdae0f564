"""The cache can be appended to and shared, is checksummed, and holds its episodes' numbers."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
import envs
from datasets.checksummed_rows import Rows, RowWriter
from datasets.relabelling import measure_many
from tests.processes import ROOT, environment
from tests.seeds import rng
from tests.tolerances import unit

WALKER = [f"walker_{mode}" for mode in ("stand", "walk", "run", "flip")]


def build(buffer):
    """Builds the buffer's cache without a progress bar."""
    return datasets.build_cache(buffer, progress=False)


@pytest.mark.parametrize("budget", [1 << 30, 0], ids=["in memory", "on disk"])
def test_faithful(buffer, budget):
    """Trajectories and rewards equal the files', read from memory and from disk."""
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


def test_rewards_stay_on_the_disk_once_the_budget_is_used(buffer):
    """It holds observations, actions and the rewards of one task; those of the next are read."""
    cache = build(buffer)
    arrays = (Rows(cache, field) for field in ("observation", "action", "reward"))
    store = datasets.Store(cache, budget=sum(array.nbytes for array in arrays))
    for task in WALKER[:2]:
        found = store.rewards(task, [3, 7])
        expected = [datasets.relabel(make_episode(seed=i).physics, task)[1:] for i in (3, 7)]
        np.testing.assert_array_equal(found, expected)
    kept = [isinstance(rewards, Rows) for rewards in store._rewards.values()]
    assert kept == [False, True]


def test_lengths_may_differ(tmp_path):
    """Episodes of different lengths share a cache; those read together must be of one length."""
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
    """New files are added and rewards extended; a store that is open stays as it was."""
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
    rows = []
    monkeypatch.setattr(
        "datasets.reward_store.measure_many",
        lambda physics, *rest: rows.append(len(physics)) or measure_many(physics, *rest),
    )
    np.testing.assert_array_equal(after.rewards("walker_stand")[:12], old)
    assert rows == [1, 3 * 21]  # one tells how much room a row takes
    expected = datasets.relabel(make_episode(seed=14).physics, "walker_stand")[1:]
    np.testing.assert_array_equal(after.rewards("walker_stand")[14], expected)


def test_an_episode_that_came_late_stands_where_its_number_says(buffer, tmp_path, capsys):
    """Learning histories and draws of a subset count on the order of the files."""
    expected = datasets.Store(build(buffer)).load(range(12)).action
    late, aside = sorted(buffer.glob("*.npz"))[4], tmp_path / "aside"
    late.rename(aside)
    build(buffer)
    aside.rename(late)
    capsys.readouterr()
    np.testing.assert_array_equal(datasets.Store(build(buffer)).load(range(12)).action, expected)
    assert (
        f"{late.name} belongs before episodes that it holds; built anew" in capsys.readouterr().out
    )


@pytest.mark.parametrize("first", [True, False], ids=["the first has it", "the first lacks it"])
@pytest.mark.parametrize("key", ["physics", "demonstrator"])
def test_an_array_is_in_all_episodes_or_in_none(tmp_path, key, first):
    """Whichever episode comes first, at once or appended: nothing is left out without a word."""
    bare = make_episode(physics=key != "physics")
    whole = make_episode()
    if key == "demonstrator":
        whole = replace(whole, extra={key: whole.action})
    order, size = (whole, bare) if first else (bare, whole), getattr(whole, key).shape[1]
    for index, episode in enumerate([order[0], *order]):
        datasets.write_episode(tmp_path / "buffer", index, episode)
    found, before = ("no", size) if first else (size, "none")
    other = tmp_path / "buffer" / "episode_000002_20.npz"
    said = f"{other}: {key} has {found} columns, but earlier episodes have {before}; allowed: the"
    with pytest.raises(ValueError, match=said):
        build(tmp_path / "buffer")
    assert "demonstrator" in datasets.verify(tmp_path / "buffer").problems[other.name]
    other.rename(tmp_path / other.name)
    cached = build(tmp_path / "buffer").read_bytes()
    (tmp_path / other.name).rename(other)
    with pytest.raises(ValueError, match=said):
        build(tmp_path / "buffer")
    assert (tmp_path / "buffer.h5").read_bytes() == cached


def test_a_digest_tells_episodes_from_others_and_not_places(buffer, tmp_path):
    """Not by how the cache was made either: at once, piece by piece, or by another reader."""
    digest = datasets.Store(build(buffer)).digest
    moved = tmp_path / "moved"
    for number, path in enumerate(sorted(buffer.glob("*.npz"))):
        moved.mkdir(exist_ok=True)
        shutil.copy(path, moved)
        if number in (3, 11):
            last = datasets.Store(build(moved), budget=0, episodes=number).digest
    assert last == digest
    for array, place in (("action", (7, 0)), ("physics", (7, 0)), ("reward", (7,))):
        changed = shutil.copytree(moved, tmp_path / array)
        path = sorted(changed.glob("*.npz"))[5]
        with np.load(path) as stored:
            episode = dict(stored)
        episode[array][place] = np.nextafter(episode[array][place], np.float32(2))
        np.savez(path, **episode)
        assert datasets.Store(build(changed)).digest != digest


def test_a_buffer_that_was_replaced_is_noticed(buffer):
    """Files of the same names have other content, so cache and rewards are built anew."""
    old = datasets.Store(build(buffer)).returns("walker_run")
    for index in range(12):
        datasets.write_episode(buffer, index, make_episode(seed=100 + index))
    store = datasets.Store(build(buffer))
    np.testing.assert_array_equal(store.load([3]).action[0], make_episode(seed=103).action[1:])
    expected = datasets.relabel(make_episode(seed=103).physics, "walker_run")[1:]
    np.testing.assert_array_equal(store.rewards("walker_run", [3])[0], expected)
    assert not np.array_equal(store.returns("walker_run"), old)


def test_a_removed_episode_is_in_no_training(buffer):
    """After a bad episode was removed, cache and rewards are built anew without it."""
    datasets.Store(build(buffer)).returns("walker_run")
    next(buffer.glob("episode_000003_*.npz")).unlink()
    store = datasets.Store(build(buffer))
    assert store.episodes == 11
    np.testing.assert_array_equal(store.load([3]).action[0], make_episode(seed=4).action[1:])
    expected = datasets.relabel(make_episode(seed=4).physics, "walker_run")[1:]
    np.testing.assert_array_equal(store.rewards("walker_run", [3])[0], expected)


def test_relabelling_many_tasks(buffer):
    """All tasks of a family at once, in both modes; another store reads the files back."""
    store = datasets.Store(build(buffer))
    for mode in ("exorl", "exact"):
        store.relabel(WALKER, mode, progress=False)
        other = datasets.Store(build(buffer))
        episode = make_episode(seed=4)
        for task in WALKER:
            expected = datasets.relabel(episode.physics, task, mode, episode.action)[1:]
            np.testing.assert_array_equal(other.rewards(task, [4], mode)[0], expected)


def test_each_row_has_the_rewards_of_its_own_task(buffer):
    """Tasks of several names, and members of a family among them, in any order."""
    names = ["walker_run", "walker_stand", "walker_speed_1", "walker_run", "walker_speed_2"]
    tasks = [
        envs.task("walker_speed", speed=float(name[-1])) if "speed" in name else envs.task(name)
        for name in names
    ]
    store, episodes = datasets.Store(build(buffer)), [3, 0, 7, 11, 3]
    expected = np.array(
        [
            [datasets.relabel(make_episode(seed=index).physics, task)[1:] for index in episodes]
            for task in tasks
        ]
    )
    table = store.reward_table(tasks, episodes)
    # Rewards of a member follow from what is kept of its family, by the same formula.
    np.testing.assert_allclose(table, expected, rtol=2 * unit(), atol=0)
    own = store.rewards_of(tasks, episodes)
    np.testing.assert_array_equal(own, table[np.arange(5), np.arange(5)])


def test_seeded_subset(buffer):
    """A subset is drawn and not the earliest episodes; the same seed draws the same one."""
    cache = build(buffer)
    some, same = (datasets.Store(cache, episodes=5, seed=3) for _ in range(2))
    assert some.episodes == 5
    np.testing.assert_array_equal(some.load(range(5)).action, same.load(range(5)).action)
    whole = datasets.Store(cache).load(range(12)).action
    assert not np.array_equal(some.load(range(5)).action, whole[:5])
    places = [np.flatnonzero((whole == one).all(axis=(1, 2))) for one in some.load(range(5)).action]
    # Five different ones, in the order of the files.
    assert len(set(np.concatenate(places))) == 5 and (np.diff(np.concatenate(places)) > 0).all()
    draws = {
        datasets.Store(cache, episodes=5, seed=seed).load(range(5)).action.tobytes()
        for seed in range(8)
    }
    assert len(draws) > 1
    for none in (0, -1):
        with pytest.raises(ValueError, match=f"episodes={none}; allowed: 1 or more, or None"):
            datasets.Store(build(buffer), episodes=none)


def cartpole_episode(seed):
    """Makes an episode of a body whose rewards depend on controls, of no environment."""
    data, ones = rng(seed), np.ones((21, 1))
    action = data.uniform(-1, 1, (21, 1))
    action[0] = 0
    return datasets.Episode(np.zeros((21, 5)), action, 0 * ones, ones, data.normal(size=(21, 4)))


def test_one_store_keeps_rewards_of_each_mode_apart(tmp_path):
    episode = cartpole_episode(0)
    datasets.write_episode(tmp_path / "buffer", 0, episode)
    store = datasets.Store(build(tmp_path / "buffer"))
    earned = {}
    for mode in ("exorl", "exact", "exorl"):
        expected = datasets.relabel(
            episode.physics, "cartpole_swingup", mode, episode.action.astype(np.float32)
        )[1:]
        np.testing.assert_array_equal(store.rewards("cartpole_swingup", mode=mode)[0], expected)
        earned[mode] = store.returns("cartpole_swingup", mode)[0]
        assert earned[mode] == pytest.approx(expected.sum(dtype=np.float64), rel=unit())
    assert earned["exact"] < earned["exorl"]  # which leaves the cost of controls out


def test_rewards_of_several_tasks_grow_together(buffer):
    """One of them was kept before episodes were added."""
    before = datasets.Store(build(buffer))
    before.relabel(["walker_run"], progress=False)
    datasets.write_episode(buffer, 12, make_episode(seed=12))
    store = datasets.Store(build(buffer))
    tasks = ["walker_run", "walker_walk"]
    store.relabel(tasks, progress=False)
    for index in (0, 12):
        physics = make_episode(seed=index).physics
        for task in tasks:
            expected = datasets.relabel(physics, task)[1:]
            np.testing.assert_array_equal(store.rewards(task, [index])[0], expected)


def test_an_episode_that_was_replaced_is_noticed_by_its_size_or_by_its_time_alone(tmp_path):
    """As where files are copied with their times, or written again at the same size."""
    buffer = make_buffer(tmp_path / "buffer", 1)
    (path,) = buffer.iterdir()
    time = path.stat().st_mtime_ns

    def replace(seed, write, time):
        arrays = {
            key: value for key, value in vars(make_episode(seed=seed)).items() if key != "extra"
        }
        write(path, **arrays)
        os.utime(path, ns=(time, time))
        action = datasets.Store(build(buffer)).load([0]).action[0]
        np.testing.assert_array_equal(action, arrays["action"][1:])
        return path.stat().st_size

    build(buffer)
    sizes = [replace(1, np.savez, time), replace(2, np.savez, time + 1)]
    assert sizes[0] == sizes[1] != replace(3, np.savez_compressed, time + 1)


def places_in_rows(cache, fields):
    """Returns offsets of bytes of rows in the file: three in every 20 kB, and the last."""
    places = []
    with h5py.File(cache) as file:
        for field in fields:
            data = file[field]
            start, size = data.id.get_offset(), data.id.get_storage_size()
            places += [start + first + 5 * k for first in range(0, size, 20_000) for k in range(3)]
            places.append(start + size - 1)
    return places


def test_every_flipped_bit_is_found(tmp_path):
    """20 of 20 single-bit flips in stored rows are found."""
    cache = build(make_buffer(tmp_path / "buffer", 40, length=300))
    good = cache.read_bytes()
    places = places_in_rows(cache, ("observation", "action", "physics"))
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


def test_a_flipped_bit_in_rewards_is_found(tmp_path):
    """The last block, which is not full, is verified, too."""
    buffer = make_buffer(tmp_path / "buffer", 80, length=300)
    cache = build(buffer)
    datasets.Store(cache).relabel(["walker_run"], progress=False)
    path = tmp_path / "buffer.rewards_exorl" / "walker_run.h5"
    good = path.read_bytes()
    for place in places_in_rows(path, ["reward"]):
        data = bytearray(good)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match="rows .* are damaged"):
            datasets.Store(cache).returns("walker_run")


def test_a_flipped_bit_in_a_checksum_is_found(buffer):
    """A damaged checksum fits no rows."""
    cache = build(buffer)
    data = bytearray(cache.read_bytes())
    with h5py.File(cache) as file:
        place = file["action_crc32"].id.get_offset()
    data[place] ^= 1
    cache.write_bytes(data)
    with pytest.raises(ValueError, match="action: rows 0 to .* are damaged"):
        datasets.Store(cache)


def test_a_damaged_cache_is_not_appended_to(buffer, capsys):
    """It is built anew from the episodes, and a line says why."""
    cache = build(buffer)
    data = bytearray(cache.read_bytes())
    data[places_in_rows(cache, ["physics"])[0]] ^= 1
    cache.write_bytes(data)
    datasets.write_episode(buffer, 12, make_episode(seed=12))
    store = datasets.Store(build(buffer))
    assert "physics: rows 0 to" in capsys.readouterr().out
    for index in (0, 12):
        np.testing.assert_array_equal(
            store.load([index]).action[0], make_episode(seed=index).action[1:]
        )
        expected = datasets.relabel(make_episode(seed=index).physics, "walker_run")[1:]
        np.testing.assert_array_equal(store.rewards("walker_run", [index])[0], expected)


def test_blocks_of_rows(tmp_path):
    """Rows come back as they were written, across blocks and however they were appended."""
    rows = rng(0).standard_normal((10_000, 3)).astype(np.float32)  # 12 bytes each, 5461 in a block
    path = tmp_path / "rows.h5"
    with h5py.File(path, "w", libver="latest") as file:
        writer = RowWriter(file, "x", (12_000, 3), np.float32)
        for first, last in ((0, 0), (0, 1), (1, 5461), (5461, 5462), (5462, 10_000)):
            writer.append(rows[first:last])
        writer.finish()
    for start, stop in ((0, 10_000), (5460, 5462), (5461, 9_999), (9_999, 10_000), (7, 7)):
        found = Rows(path, "x")
        assert found.shape == (10_000, 3)
        np.testing.assert_array_equal(found.read(start, stop), rows[start:stop])
    for start, stop in ((9_999, 10_001), (-1, 3), (4, 3)):
        with pytest.raises(IndexError, match="has 10000 rows"):
            found.read(start, stop)


def test_rows_that_the_system_hands_out_piece_by_piece_come_back_in_order(tmp_path, monkeypatch):
    """Linux hands out at most 2 GiB at once; here it is a thousand bytes."""
    rows = rng(0).standard_normal((500, 3))
    with h5py.File(tmp_path / "rows.h5", "w", libver="latest") as file:
        writer = RowWriter(file, "x", rows.shape, np.float64)
        writer.append(rows)
        writer.finish()
    read, sizes = os.preadv, []

    def some(descriptor, buffers, offset):
        sizes.append(read(descriptor, [buffers[0][:1000]], offset))
        return sizes[-1]

    found = Rows(tmp_path / "rows.h5", "x")
    monkeypatch.setattr(os, "preadv", some)
    np.testing.assert_array_equal(found.read(3, 497), rows[3:497])
    assert max(sizes) == 1000


def test_an_open_store_reads_on_when_its_cache_is_replaced(buffer):
    """It keeps the file that it has opened."""
    before = datasets.Store(build(buffer), budget=0)
    expected = before.load([3])
    for index in range(12):
        datasets.write_episode(buffer, index, make_episode(seed=100 + index))
    build(buffer)
    np.testing.assert_array_equal(before.load([3]).observation, expected.observation)


def as_earlier_versions_wrote_it(cache):
    """Rewrites a cache as format 2 had it: in chunks with HDF5's own checksums."""
    with h5py.File(cache) as file:
        arrays = {name: file[name][:] for name in file if not name.endswith("_crc32")}
        identity = file.attrs["identity"]
    with h5py.File(cache, "w", libver="latest") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, chunks=array.shape, fletcher32=True)
        file.attrs.update({"format": 2, "identity": identity, "domain": "walker"})


def test_a_cache_of_an_earlier_format_is_rebuilt(buffer, capsys):
    """It is never misread, and its rewards are computed again."""
    cache = build(buffer)
    datasets.Store(cache).returns("walker_run")
    as_earlier_versions_wrote_it(cache)
    with pytest.raises(
        ValueError, match=r"an earlier format; make it anew with datasets.build_cache"
    ):
        datasets.Store(cache)
    store = datasets.Store(build(buffer))
    assert capsys.readouterr().out == f"{cache}: of an earlier format; built anew\n"
    np.testing.assert_array_equal(store.load([3]).action[0], make_episode(seed=3).action[1:])
    expected = datasets.relabel(make_episode(seed=3).physics, "walker_run")[1:]
    np.testing.assert_array_equal(store.rewards("walker_run", [3])[0], expected)


def test_a_process_that_ends_with_an_open_store_prints_nothing(buffer):
    script = "import sys, datasets; store = datasets.Store(sys.argv[1], budget=0)"
    command = [sys.executable, "-W", "error", "-c", script, str(build(buffer))]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: bytes(64) + data[64:]],
)
def test_a_broken_cache_is_named_and_rebuilt(buffer, damage):
    """A truncated, emptied or overwritten file is refused by name, and replaced by a build."""
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
    """Three processes read one cache at once and see the same numbers."""
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
    """No physics, physics of other sizes, a family and a wrong mode are refused."""
    bare = tmp_path / "bare"
    bare.mkdir()
    datasets.write_episode(bare, 0, make_episode(physics=False))
    with pytest.raises(ValueError, match="no physics"):
        datasets.Store(build(bare)).returns("walker_run")
    with pytest.raises(ValueError, match="physics must have shape"):
        datasets.relabel(np.zeros((3, 18)), "quadruped_run")
    store = datasets.Store(build(buffer))
    with pytest.raises(ValueError, match="is a family"):
        store.returns("walker_any")
    with pytest.raises(ValueError, match="nearest match: 'exact'"):
        store.returns("walker_run", mode="exakt")
    with pytest.raises(ValueError, match="needs the rows' actions"):
        datasets.relabel(np.zeros((3, 18)), "walker_run", mode="exact")


def test_another_bodys_rewards_are_refused(tmp_path):
    """A walker's and a cheetah's states have as many numbers, so sizes do not tell them apart."""
    named = make_buffer(tmp_path / "walker" / "mine" / "buffer", 2)
    refused = "its episodes are of walker, but task cheetah_run is of cheetah; allowed: tasks of"
    store = datasets.Store(build(named))
    for ask in (store.returns, store.rewards, lambda task: store.relabel(["walker_run", task])):
        with pytest.raises(ValueError, match=refused):
            ask("cheetah_run")
    assert not list(named.parent.glob("*rewards*"))
    nameless = datasets.Store(build(make_buffer(tmp_path / "some", 2)))
    with pytest.raises(ValueError, match=refused):
        nameless.relabel(["walker_run", "cheetah_run"])
