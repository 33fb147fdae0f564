"""Buffers become Minari datasets and come back with every bit; Minari itself reads them, where it
is installed (pip install minari; no extra of this project needs it)."""

import errno
import json
import os
import resource
import shutil
from dataclasses import replace

import gymnasium
import h5py
import numpy as np
import pytest
from fabricated import make_episode

import datasets
from datasets.minari_format import _to_range
from tests.tolerances import assert_within, unit

PENDULUM = "gymnasium:Pendulum-v1"


@pytest.fixture
def walker(tmp_path):
    """A walker's buffer with physics and a demonstrator."""
    folder = tmp_path / "walker" / "mppi" / "buffer"
    for index in range(3):
        episode = make_episode(10, index)
        extra = {"demonstrator": -episode.action, "parameters": np.ones((len(episode.action), 1))}
        datasets.write_episode(folder, index, replace(episode, extra=extra))
    return folder


@pytest.fixture
def pendulum(tmp_path):
    """A buffer of Pendulum-v1, whose own actions reach from -2 to 2."""
    folder = datasets.buffer_folder(tmp_path, PENDULUM, "random")
    datasets.collect(PENDULUM, folder, episodes=2, length=30, progress=False)
    return folder


def arrays(folder):
    """The arrays of each file of a buffer, by name."""
    return {path.name: dict(np.load(path)) for path in sorted(folder.glob("*.npz"))}


def minari_arrays(folder):
    """Every array of a Minari dataset by its path in the file."""
    found = {}
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        file.visititems(
            lambda name, node: found.update({name: node[:]} if hasattr(node, "shape") else {})
        )
    return found


def test_a_buffer_comes_back_with_every_bit(walker, tmp_path):
    there, back = tmp_path / "walker-mppi-v0", tmp_path / "walker" / "back" / "buffer"
    assert datasets.export_minari(walker, there, progress=False) == 3
    assert datasets.import_minari(there, back, progress=False) == 3
    before, after = arrays(walker), arrays(back)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].keys() == after[name].keys()
        for key, array in before[name].items():
            assert after[name][key].dtype == array.dtype
            assert after[name][key].tobytes() == array.tobytes()  # the sign of a 0 is a bit too
        assert np.signbit(before[name]["action"][1]).any()  # of which row 0 must take nothing
    assert datasets.verify(back, progress=False).problems == {}
    origin = json.loads((back / "metadata.json").read_text())
    assert origin["minari"]["dataset_id"] == "walker-mppi-v0"


def test_a_dataset_comes_back_with_every_value(pendulum, tmp_path):
    """Its actions are the environment's own, whose scaling to [-1, 1] rounds."""
    first, back, second = tmp_path / "a-v0", tmp_path / "b" / "c" / "buffer", tmp_path / "d-v0"
    datasets.export_minari(pendulum, first, progress=False)
    datasets.import_minari(first, back, PENDULUM, progress=False)
    datasets.export_minari(back, second, PENDULUM, progress=False)
    ours, before, after = arrays(pendulum), minari_arrays(first), minari_arrays(second)
    assert before.keys() == after.keys() and len(before) == 2 * 5
    for key, array in before.items():
        if key.endswith("actions"):  # 2 a and a / 2 are exact, a + 1 is rounded
            assert np.abs(array).max() > 1
            assert_within(after[key], array, 4 * unit() * 2)
            name = f"episode_{int(key.split('/')[0].removeprefix('episode_')):06d}_30.npz"
            assert_within(array, 2 * ours[name]["action"][1:], 4 * unit() * 2)
        else:
            np.testing.assert_array_equal(after[key], array)
    ended = before["episode_0/truncations"]
    assert ended[-1] and not ended[:-1].any() and not before["episode_0/terminations"].any()


@pytest.mark.parametrize(("task", "algo"), [("jaco_goal", "pd"), ("point_mass_goal", "pd")])
def test_the_task_of_the_rewards_travels(task, algo, tmp_path, capsys):
    """A hidden task's parameters lie beside each episode; data without rewards say so."""
    buffer = datasets.buffer_folder(tmp_path, task, algo)
    datasets.collect(task, buffer, episodes=2, collector=algo, length=12, progress=False)
    there, back = tmp_path / "data-v0", buffer.parents[1] / "back" / "buffer"
    capsys.readouterr()
    datasets.export_minari(buffer, there, progress=False)
    none_paid = f"{there}: all rewards are 0, as in the episodes of {buffer}\n"
    paid = any(each["reward"].any() for each in arrays(buffer).values())
    assert capsys.readouterr().out == ("" if paid else none_paid) and paid == (task == "jaco_goal")
    metadata = json.loads((there / "data" / "metadata.json").read_text())
    record = json.loads((buffer / "metadata.json").read_text())
    assert f"Collected for task {task} by {algo}." in metadata["description"]
    assert metadata["collection"].items() <= record.items() and "settings" in metadata["collection"]
    datasets.import_minari(there, back, progress=False)
    assert json.loads((back / "metadata.json").read_text())["task"] == task
    for name, before in arrays(buffer).items():
        after = arrays(back)[name]
        assert before.keys() == after.keys()
        for key, array in before.items():
            np.testing.assert_array_equal(after[key], array)
    with pytest.raises(ValueError, match="was collected with collector=None, not"):
        datasets.collect(task, back, episodes=3, collector=algo, length=12, progress=False)


def test_actions_at_the_ends_of_a_range_stay_in_it():
    low, high = (
        np.float32([1.1, 0.1, -0.3]).astype(float),
        np.float32([4.7, 0.3, 0.7]).astype(float),
    )
    ends = np.float32([[-1] * 3, [1] * 3, [-1 - 1e-6] * 3, [1 + 1e-6] * 3])
    scaled = _to_range(ends, low, high)
    assert (scaled >= low).all() and (scaled <= high).all()
    assert_within(scaled, np.array([low, high, low, high]), 4 * unit() * 5)


def test_the_versions_that_made_a_buffer_travel(pendulum, tmp_path):
    datasets.export_minari(pendulum, tmp_path / "a-v0", progress=False)
    metadata = json.loads((tmp_path / "a-v0" / "data" / "metadata.json").read_text())
    assert f"gymnasium=={gymnasium.__version__}" in metadata["requirements"]
    assert any(each.startswith("mujoco==") for each in metadata["requirements"])


def change_metadata(folder, **changes):
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def box(low, high):
    return json.dumps({"type": "Box", "shape": [1], "low": [low], "high": [high]})


def test_infos_of_others_are_left_out(pendulum, tmp_path):
    """Their names may be ours: a dictionary, a vector, or arrays without the last state."""
    there, back = tmp_path / "theirs-v0", tmp_path / "back"
    datasets.export_minari(pendulum, there, progress=False)
    with h5py.File(there / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/infos/physics/place"] = np.ones((31, 1))
        file["episode_1/infos/physics"] = np.ones(31)
        file["episode_1/infos/demonstrator"] = np.ones((30, 1))
        file["episode_1/infos/noise"] = np.full((31, 1), b"low")
    assert datasets.import_minari(there, back, PENDULUM, progress=False) == 2
    for episode in arrays(back).values():
        assert episode.keys() == {"observation", "action", "reward", "discount"}
    with h5py.File(there / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/observations"]
        file["episode_1/observations/angle"] = np.ones((31, 1))
    with pytest.raises(ValueError, match="episode_1: observations is no array"):
        datasets.import_minari(there, tmp_path / "again", PENDULUM, progress=False)


def test_actions_of_another_width_than_declared_are_refused(walker, tmp_path):
    there = tmp_path / "minari" / "walker-v0"
    datasets.export_minari(walker, there, progress=False)
    with h5py.File(there / "data" / "main_data.hdf5", "a") as file:
        actions = file["episode_1/actions"][:]
        del file["episode_1/actions"]
        file["episode_1/actions"] = actions[:, :1]  # numpy would stretch one column to six
    with pytest.raises(ValueError, match=r"episode_1: actions have the shape .*, 6\), as action"):
        datasets.import_minari(there, tmp_path / "back", "walker", progress=False)


@pytest.mark.parametrize(
    ("key", "array", "says"),
    [
        ("rewards", 0.0, "rewards is float64 of shape (); allowed: numbers, with a row for each"),
        ("rewards", np.full(10, np.nan), "reward holds NaN or infinite values"),
        ("rewards", np.full(10, 1e39), "reward reaches 1e+39, beyond float32"),
        ("rewards", np.zeros(9), "arrays differ in rows"),
        ("actions", np.full((10, 6), b"up"), "actions is |S2 of shape (10, 6); allowed: numbers"),
        ("actions", np.zeros((0, 6)), "arrays differ in rows"),
        ("observations", np.zeros((11, 24, 1)), "observation is float64 of shape (11, 24, 1)"),
        ("terminations", None, "terminations is missing"),
        ("infos/parameters", np.full((11, 1), np.inf), "parameters holds NaN or infinite values"),
    ],
)
def test_an_array_that_is_no_episodes_is_told_with_its_place(key, array, says, walker, tmp_path):
    """The dataset's, not that of the buffer, of which nothing is left."""
    there, back = tmp_path / "minari" / "walker-v0", tmp_path / "walker" / "back" / "buffer"
    datasets.export_minari(walker, there, progress=False)
    with h5py.File(there / "data" / "main_data.hdf5", "a") as file:
        del file[f"episode_1/{key}"]
        if array is not None:
            file[f"episode_1/{key}"] = array
    with pytest.raises(ValueError) as told:
        datasets.import_minari(there, back, progress=False)
    assert str(told.value).startswith(f"{there / 'data' / 'episode_1'}: {says}")
    assert list(back.parent.iterdir()) == []


def test_rewards_of_several_tasks_are_refused(walker, tmp_path):
    """ExoRL's jaco and point_mass_maze have a column for each corner; Minari has room for one."""
    last = sorted(walker.iterdir())[-1]
    episode = datasets.read_episode(last)
    datasets.write_episode(walker, 2, replace(episode, reward=np.tile(episode.reward, (1, 4))))
    with pytest.raises(ValueError, match=f"{last}: reward has 4 columns; allowed: .* with one"):
        datasets.export_minari(walker, tmp_path / "minari" / "walker-v0", progress=False)
    assert list((tmp_path / "minari").iterdir()) == []


def set_termination(folder, episode, ended):
    """Says that an episode ends by termination after 5 steps, or that it does not."""
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file[f"episode_{episode}/terminations"][4] = ended


def test_what_cannot_be_converted_is_refused(walker, pendulum, tmp_path):
    there, back = tmp_path / "walker-v0", tmp_path / "walker" / "new" / "buffer"
    with pytest.raises(ValueError, match="is no name of a Minari dataset; allowed: .*-v<number>"):
        datasets.export_minari(walker, tmp_path / "walker", progress=False)
    with pytest.raises(ValueError, match="names no domain; allowed: "):
        datasets.import_minari(there, tmp_path / "somewhere", progress=False)
    with pytest.raises(ValueError, match="holds no Minari dataset"):
        datasets.import_minari(there, back, progress=False)
    datasets.export_minari(walker, there, progress=False)
    with pytest.raises(ValueError, match="is there already"):
        datasets.export_minari(walker, there, progress=False)
    with pytest.raises(ValueError, match="is not empty"):
        datasets.import_minari(there, walker, progress=False)
    with pytest.raises(ValueError, match="episode_0: not cheetah's.*nearest match: walker"):
        datasets.import_minari(there, tmp_path / "x", "cheetah", progress=False)
    set_termination(there, 1, True)
    with pytest.raises(ValueError, match="episode_1: ends by termination after 5 steps; allowed: "):
        datasets.import_minari(there, back, progress=False)
    for changes, says in (
        ({"data_format": "arrow"}, "in the format 'arrow'; allowed: hdf5"),
        ({"action_space": '{"type": "Discrete", "n": 2}'}, "action_space is Discrete; allowed"),
        ({"action_space": box(2, 2)}, "actions have no range; allowed"),
        ({"action_space": box("a", 2)}, "actions have no range; allowed: 1 finite numbers"),
        ({"action_space": box([1], [2])}, "actions have no range; allowed: 1 finite numbers"),
        ({"action_space": None}, "metadata.json: is not what Minari writes"),
        ({"observation_space": {"type": "Box"}}, "metadata.json: is not what Minari writes"),
        ({"observation_space": "Box"}, "metadata.json: is not what Minari writes"),
        ({"total_episodes": 0}, "total_episodes is 0; allowed"),
        ({"total_episodes": True}, "total_episodes is True; allowed: a whole number"),
        ({"total_episodes": "two"}, "total_episodes is 'two'; allowed"),
        ({"total_episodes": float("inf")}, "total_episodes is inf; allowed"),
    ):
        other = tmp_path / "pendulum-v0"
        shutil.rmtree(other, ignore_errors=True)
        datasets.export_minari(pendulum, other, progress=False)
        change_metadata(other, **changes)
        with pytest.raises(ValueError, match=says):
            datasets.import_minari(other, tmp_path / "y", PENDULUM, progress=False)
    (other / "data" / "main_data.hdf5").write_bytes(b"damaged")
    change_metadata(other, total_episodes=2)
    with pytest.raises(ValueError, match="main_data.hdf5: cannot be read"):
        datasets.import_minari(other, tmp_path / "z", PENDULUM, progress=False)


def test_a_user_without_a_home_converts(walker, tmp_path, monkeypatch):
    """Where no home is known, Minari's own folder is not."""

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    monkeypatch.setattr("pathlib.Path.home", unknown)
    there = tmp_path / "walker-v0"
    assert datasets.export_minari(walker, there, progress=False) == 3
    assert json.loads((there / "data" / "metadata.json").read_text())["dataset_id"] == "walker-v0"


def test_a_conversion_that_stops_midway_leaves_nothing(walker, tmp_path):
    """The same command works when the fault is mended."""
    there, back = tmp_path / "minari" / "walker-v0", tmp_path / "walker" / "back" / "buffer"
    last = sorted(walker.iterdir())[-1]
    good = last.read_bytes()
    last.write_bytes(good[:100])
    with pytest.raises(ValueError, match=last.name):
        datasets.export_minari(walker, there, progress=False)
    assert list(there.parent.iterdir()) == []
    last.write_bytes(good)
    datasets.export_minari(walker, there, progress=False)
    set_termination(there, 2, True)
    with pytest.raises(ValueError, match="episode_2: ends by termination"):
        datasets.import_minari(there, back, progress=False)
    assert list(back.parent.iterdir()) == []
    set_termination(there, 2, False)
    assert datasets.import_minari(there, back, progress=False) == 3


@pytest.mark.parametrize("room", [0, 1 << 12, 1 << 17, 3 << 16])
def test_a_full_disk_stops_a_conversion_and_leaves_nothing(room, tmp_path):
    """HDF5 would crash the process, so a child converts; the whole set takes 400 kB."""
    buffer, there = tmp_path / "walker" / "mppi" / "buffer", tmp_path / "minari" / "walker-v0"
    for index in range(6):
        datasets.write_episode(buffer, index, make_episode(150, index))
    if not (child := os.fork()):
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            datasets.export_minari(buffer, there, progress=False)
        except OSError as error:
            said = (error.errno, error.filename) == (errno.EFBIG, str(there))
            os._exit(7 if said else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(there.parent.iterdir()) == []


def test_a_killed_conversion_is_done_again(walker, tmp_path, monkeypatch):
    """An empty folder is taken, also where it is a link to another disk."""
    there, back = tmp_path / "walker-v0", tmp_path / "walker" / "back" / "buffer"
    datasets.export_minari(walker, there, progress=False)
    disk = tmp_path / "disk" / "buffer"
    disk.mkdir(parents=True)
    back.parent.mkdir()
    back.symlink_to(disk)
    if not os.fork():
        monkeypatch.setattr("datasets.minari_format.write_metadata", lambda *_: os._exit(0))
        datasets.import_minari(there, back, progress=False)
    os.wait()
    assert list(back.iterdir()) == []
    assert datasets.import_minari(there, back, progress=False) == 3
    assert back.is_symlink() and list(disk.parent.iterdir()) == [disk]
    assert arrays(back).keys() == arrays(walker).keys()


def test_minari_itself_reads_and_writes_the_same(walker, pendulum, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="minari is not installed (pip install minari)")
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name, folder in (("ours/walker-v0", walker), ("pendulum-v0", pendulum)):
        datasets.export_minari(folder, tmp_path / name, progress=False)
        loaded = minari.load_dataset(name)
        assert loaded.id == name and loaded.total_episodes == len(arrays(folder))
        for one, episode in zip(loaded.iterate_episodes(), arrays(folder).values(), strict=True):
            np.testing.assert_array_equal(one.observations, episode["observation"])
            np.testing.assert_array_equal(one.rewards, episode["reward"][1:, 0])
            scale = 1 if folder == walker else 2
            assert_within(one.actions, scale * episode["action"][1:], 4 * unit() * scale)
    np.testing.assert_array_equal(
        next(iter(minari.load_dataset("ours/walker-v0"))).infos["physics"],
        arrays(walker)["episode_000000_10.npz"]["physics"],
    )
    assert minari.load_dataset("pendulum-v0").recover_environment().spec.id == "Pendulum-v1"
    # The other way: a dataset that Minari wrote.
    env = gymnasium.make("Pendulum-v1")
    observations, actions, rewards = [env.reset(seed=0)[0]], [], []
    for _ in range(20):
        actions.append(env.action_space.sample())
        observation, reward, *_ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
    written = EpisodeBuffer(
        observations=np.array(observations),
        actions=np.array(actions),
        rewards=np.array(rewards),
        terminations=np.zeros(20, bool),
        truncations=np.arange(20) == 19,
    )
    minari.create_dataset_from_buffers(
        "theirs-v0", [written], env="Pendulum-v1", data_format="hdf5"
    )
    back = tmp_path / "back"
    datasets.import_minari(tmp_path / "theirs-v0", back, PENDULUM, progress=False)
    (episode,) = arrays(back).values()
    np.testing.assert_array_equal(episode["observation"], observations)
    np.testing.assert_array_equal(episode["reward"][1:, 0], np.array(rewards, np.float32))
    assert_within(2 * episode["action"][1:], actions, 4 * unit() * 2)
