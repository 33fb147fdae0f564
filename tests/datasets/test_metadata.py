"""A collection whose record cannot be read ends in one line and changes nothing."""

import fcntl
import json

import pytest

import datasets
import datasets.collection
import envs
from datasets.collection_metadata import check_same_collection, read_metadata, read_versions
from datasets.locks import flock
from datasets.mppi_collector import MPPICollector

WAY = {"seed": 0, "collector": "random", "progress": False}


BROKEN = {
    "empty": b"",
    "cut short": b"{",
    "no facts": b"{}",
    "a list": b"[]",
    "null": b"null",
    "no text": b"\xff\xfe",
    "zeros": b"\0" * 400,
    "other facts": b'{"task": "point_mass_goal", "settings": 3}',
    "other versions": b'{"task": "point_mass_goal", "versions": ["mujoco 2.1"]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_metadata(content, tmp_path):
    datasets.collect("point_mass_goal", tmp_path, episodes=2, **WAY)
    (tmp_path / "metadata.json").write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = "metadata.json: .*; restore it, or choose another folder"
    with pytest.raises(ValueError, match=said) as told:
        datasets.collect("point_mass_goal", tmp_path, episodes=3, **WAY)
    assert "\n" not in str(told.value)
    assert told.value.__context__ is None or told.value.__suppress_context__
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("versions", [None, ["mujoco 2.1"], "1.0", 3])
def test_a_record_of_another_program_is_no_obstacle(versions, tmp_path):
    """Its versions may be anything; verifying and converting go on without them."""
    buffer = tmp_path / "point_mass" / "theirs" / "buffer"
    datasets.collect("point_mass_goal", buffer, episodes=2, **WAY)
    (buffer / "metadata.json").write_text(json.dumps({"versions": versions}))
    assert read_versions(buffer) == {}
    assert datasets.verify(buffer, progress=False).problems == {}
    assert datasets.export_minari(buffer, tmp_path / "theirs-v0", progress=False) == 2


def test_metadata_that_is_no_file(tmp_path):
    datasets.collect("point_mass_goal", tmp_path, episodes=1, **WAY)
    (tmp_path / "metadata.json").unlink()
    (tmp_path / "metadata.json").mkdir()
    with pytest.raises(ValueError, match="cannot be read .*; restore it"):
        datasets.collect("point_mass_goal", tmp_path, episodes=2, **WAY)


def test_a_collection_that_stopped_before_its_first_episode_may_be_changed(tmp_path):
    """Noise reaches the hill of MountainCarContinuous, which ends an episode, within 999 steps."""
    way = WAY | {"collector": "noise", "episodes": 1}
    with pytest.raises(ValueError, match="an episode terminated after"):
        datasets.collect("gymnasium:MountainCarContinuous-v0", tmp_path, **way)
    datasets.collect("gymnasium:MountainCarContinuous-v0", tmp_path, length=50, **way)
    assert json.loads((tmp_path / "metadata.json").read_text())["length"] == 50


def test_a_second_collection_is_refused_before_the_first_has_an_episode(tmp_path, monkeypatch):
    """One of the same settings is let in: both write the same files."""
    way = WAY | {"folder": tmp_path / "buffer"}
    run_batch = datasets.collection.run_batch

    def second_comes(*args):
        monkeypatch.setattr("datasets.collection.run_batch", run_batch)
        for task, others, difference in (
            ("walker_run", {}, "task='walker_walk', not 'walker_run'"),
            ("walker_walk", {"seed": 1}, "seed=0, not 1"),
        ):
            with pytest.raises(ValueError, match=difference):
                datasets.collect(task, **way | others, episodes=1, length=3)
        assert list((tmp_path / "buffer").glob("*.npz")) == []
        assert datasets.collect("walker_walk", **way, episodes=3, length=3)["episodes"] == 3
        return run_batch(*args)

    monkeypatch.setattr("datasets.collection.run_batch", second_comes)
    datasets.collect("walker_walk", **way, episodes=2, length=3)
    assert run_batch is datasets.collection.run_batch
    assert len(list((tmp_path / "buffer").glob("*.npz"))) == 3


def test_of_two_collections_that_write_their_records_at_once_one_goes_on(tmp_path, monkeypatch):
    """The second comes where the first has given its lock up, to share it."""
    way = WAY | {"folder": tmp_path, "episodes": 1, "length": 3}

    def second_comes(lock, operation):
        if operation != fcntl.LOCK_SH:
            return flock(lock, operation)
        monkeypatch.setattr("datasets.collection_metadata.flock", flock)
        flock(lock, fcntl.LOCK_UN)
        datasets.collect("walker_run", **way)
        return flock(lock, operation)

    monkeypatch.setattr("datasets.collection_metadata.flock", second_comes)
    with pytest.raises(ValueError, match="task='walker_run', not 'walker_walk'"):
        datasets.collect("walker_walk", **way)
    assert json.loads((tmp_path / "metadata.json").read_text())["task"] == "walker_run"


def test_a_buffer_of_an_earlier_version_goes_on_with_a_warning(tmp_path, capsys):
    """Earlier versions stored actions that did not quite lead to the stored states."""
    metadata = datasets.collect("point_mass_goal", tmp_path, episodes=1, **WAY)
    assert metadata.pop("actions") == "float32"
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    assert datasets.collect("point_mass_goal", tmp_path, episodes=1, **WAY) == metadata
    assert capsys.readouterr().out == ""
    assert datasets.collect("point_mass_goal", tmp_path, episodes=2, **WAY)["actions"] is None
    assert "rounded after they were executed" in capsys.readouterr().out


def test_a_setting_is_read_under_its_earlier_name(tmp_path, capsys):
    """A buffer from before `coarse` was called `timestep_scale` can be extended."""
    settings = json.loads(json.dumps(MPPICollector.settings(envs.task("cartpole_swingup"))))
    made = {"task": "cartpole_swingup", "seed": 0, "action_repeat": 1, "settings": settings}
    earlier = {key: value for key, value in settings.items() if key != "timestep_scale"}
    earlier["coarse"] = settings["timestep_scale"]
    (tmp_path / "episode_000000_1000.npz").touch()
    (tmp_path / "metadata.json").write_text(
        json.dumps({**made, "episodes": 2, "settings": earlier})
    )
    check_same_collection(tmp_path, read_metadata(tmp_path), made)
    said = f"{tmp_path / 'metadata.json'}: setting 'coarse' is now called 'timestep_scale'\n"
    assert capsys.readouterr().out == said
    made["settings"] = settings | {"timestep_scale": 7}
    with pytest.raises(ValueError, match=r"settings.timestep_scale=2, not 7"):
        check_same_collection(tmp_path, read_metadata(tmp_path), made)


@pytest.mark.parametrize(
    ("task", "collector", "repeat", "earlier", "difference"),
    [
        ("walker_walk", "mppi", 5, {"hold": 3, "knots": 8}, "settings.hold=3, not 5"),
        ("cartpole_swingup", "mppi", 5, {}, None),
        ("point_mass_goal", "noise", 1, {}, None),
        (
            "point_mass_goal",
            "noise",
            5,
            {},
            "settings.time_scales_in='held actions', not 'environment steps'",
        ),
    ],
)
def test_a_buffer_whose_actions_were_held_otherwise_does_not_go_on(
    task, collector, repeat, earlier, difference, tmp_path
):
    """Earlier versions asked a collector once in `action_repeat` steps, and did not tell it."""
    way = WAY | {"collector": collector, "length": 10, "action_repeat": repeat}
    metadata = datasets.collect(task, tmp_path, episodes=1, **way)
    metadata["settings"] |= earlier
    metadata["settings"].pop("time_scales_in", None)
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    if difference is None:
        datasets.collect(task, tmp_path, episodes=2, **way)
        assert len(list(tmp_path.glob("*.npz"))) == 2
        return
    with pytest.raises(ValueError, match=f"{difference}; choose another folder"):
        datasets.collect(task, tmp_path, episodes=2, **way)
