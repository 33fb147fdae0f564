"""Kept rewards are used only while the same task, code and simulator would compute them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from fabricated import make_buffer, make_episode

import datasets
import envs
from datasets import fingerprint, relabelling
from datasets.checksummed_rows import RowWriter

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import numpy as np
import datasets
from datasets.episode import episode_files

store = datasets.Store(datasets.build_cache(sys.argv[1], progress=False))
states = [datasets.read_episode(path).physics for path in episode_files(sys.argv[1])]
fresh = np.stack([datasets.relabel(physics, "walker_flip")[1:] for physics in states])
print("equal", np.array_equal(store.rewards("walker_flip"), fresh), "sum", fresh.sum())
"""


def kept_rewards(buffer, task="walker_run"):
    """Returns the file of a task's rewards."""
    return buffer.parent / f"{buffer.name}.rewards_exorl" / f"{task}.h5"


def open_store(buffer):
    return datasets.Store(datasets.build_cache(buffer, progress=False))


def spoil(buffer, attribute=None):
    """Replaces kept rewards by zeros with valid checksums, and removes an attribute."""
    with h5py.File(kept_rewards(buffer), "a") as file:
        zeros = np.zeros(len(file["reward"]), np.float32)
        del file["reward"], file["reward_crc32"]
        writer = RowWriter(file, "reward", zeros.shape, np.float32)
        writer.append(zeros)
        writer.finish()
        if attribute:
            del file.attrs[attribute]


@pytest.fixture
def relabelled(buffer):
    """A buffer whose rewards of walker_run are kept."""
    open_store(buffer).relabel(["walker_run"], progress=False)
    return buffer


@pytest.fixture
def expected():
    """Rewards of its episode 5, straight from its physics."""
    return datasets.relabel(make_episode(seed=5).physics, "walker_run")[1:]


def test_an_edited_helper_of_a_task_is_noticed(tmp_path):
    """Rewards are computed again when a module that walker's imports changes.

    The edit makes half the angular momentum earn a flip's full reward.
    """
    buffer, code = make_buffer(tmp_path / "buffer", 2), tmp_path / "code"
    for package in ("envs", "datasets"):
        shutil.copytree(
            ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__")
        )

    def run():
        environment = os.environ | {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", SCRIPT, str(buffer)]
        return subprocess.run(
            command, cwd=code, env=environment, capture_output=True, text=True, check=True
        ).stdout

    before = run()
    helper = code / "envs" / "domains" / "planar.py"
    assert "_SPIN = 5.0" in helper.read_text()
    helper.write_text(helper.read_text().replace("_SPIN = 5.0", "_SPIN = 2.5"))
    after = run()
    assert before.startswith("equal True")
    assert (
        "rewards of walker_flip were computed with another code: computed again\nequal True"
        in after
    )
    assert before.split()[-1] != after.split()[-1]


def test_another_simulator_is_noticed(relabelled, expected, monkeypatch, capsys):
    """With another version of MuJoCo, a line says so and rewards are computed again."""
    spoil(relabelled)
    assert not open_store(relabelled).rewards("walker_run", [5]).any()  # kept, so they are believed
    monkeypatch.setattr(relabelling, "version", lambda name: f"another {name}")
    monkeypatch.setattr(relabelling, "_code", relabelling._code.__wrapped__)
    np.testing.assert_array_equal(open_store(relabelled).rewards("walker_run", [5])[0], expected)
    assert (
        "walker_run were computed with another mujoco, dm_control: computed again"
        in capsys.readouterr().out
    )


def test_other_parameters_are_noticed(buffer, capsys):
    """A file of another task under this task's name is not used."""
    store = open_store(buffer)
    store.relabel(["walker_run", "walker_walk"], progress=False)
    shutil.copy(kept_rewards(buffer, "walker_walk"), kept_rewards(buffer))
    episode = make_episode(seed=5)
    rewards = open_store(buffer).rewards("walker_run", [5])[0]
    np.testing.assert_array_equal(rewards, datasets.relabel(episode.physics, "walker_run")[1:])
    assert "with another task: computed again" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["no identity", "no cache", "half a file"])
def test_rewards_of_unknown_origin_are_computed_again(relabelled, expected, damage, capsys):
    """Rewards of earlier versions of this code, and files that were cut short."""
    if damage == "half a file":
        path = kept_rewards(relabelled)
        path.write_bytes(path.read_bytes()[:1000])
    else:
        spoil(relabelled, {"no identity": "made_by", "no cache": "cache"}[damage])
    np.testing.assert_array_equal(open_store(relabelled).rewards("walker_run", [5])[0], expected)
    said = {
        "no identity": "do not say what computed them",
        "no cache": "",
        "half a file": "are unreadable",
    }
    assert said[damage] in capsys.readouterr().out


def test_unchanged_rewards_are_read(relabelled, monkeypatch, capsys):
    """Nothing is computed or printed."""
    monkeypatch.setattr("datasets.reward_store.measure_many", None)
    assert open_store(relabelled).rewards("walker_run").any()
    assert capsys.readouterr().out == ""


def test_code_that_was_edited_after_loading_writes_no_rewards(buffer, monkeypatch):
    """It is unknown which text of the file the loaded module has."""
    walker = ROOT / "envs" / "domains" / "walker.py"
    monkeypatch.setitem(fingerprint._SOURCE, walker, walker.read_bytes() + b"# as it was\n")
    with pytest.raises(
        ValueError, match=r"envs/domains/walker.py was edited while this process ran: start"
    ):
        open_store(buffer).returns("walker_run")
    assert not kept_rewards(buffer).exists()


def test_another_process_with_other_code_is_noticed(relabelled, monkeypatch):
    """Two branches may work on one cache at once; neither reads the other's rewards."""
    store = open_store(relabelled)
    monkeypatch.setattr(
        store._reward_store, "relabel", lambda *_, **__: spoil(relabelled, "made_by")
    )
    with pytest.raises(
        ValueError, match=r"another process replaces these rewards.*data.cache=<folder>"
    ):
        store.returns("walker_run")


@pytest.mark.parametrize(
    ("domain", "own"),
    [
        ("walker", {"domains/planar.py"}),
        ("point_mass_maze", {"maze.py", "domains/point_mass.py"}),
        ("jaco", set()),
    ],
)
def test_the_code_of_a_reward_is_all_that_computes_it(domain, own):
    """It is the domain's module and its imports; edits of other domains change nothing."""
    paths = fingerprint.sources("datasets.relabelling", f"envs.domains.{domain}")
    in_envs = {
        str(path.relative_to(ROOT / "envs")) for path in paths if path.is_relative_to(ROOT / "envs")
    }
    assert {
        "domain.py",
        "readings.py",
        "rewards.py",
        "registry.py",
        f"domains/{domain}.py",
    } | own <= in_envs
    bodies = {f"domains/{name}.py" for name in envs.registry.domains()}
    assert bodies & in_envs == bodies & (own | {f"domains/{domain}.py"})
    assert ROOT / "datasets" / "relabelling.py" in paths
