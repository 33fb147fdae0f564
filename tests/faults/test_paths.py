"""A path is a name: nothing reads it as a pattern, a format or an address."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from agentic_transformer.agents.load import load
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.literal_path import check_path
from agentic_transformer.training.metrics import MetricsLog
from tests.faults.test_checkpoints import files, fresh
from tests.processes import environment
from tests.small_agents import describe, labelled

pytestmark = pytest.mark.slow

NAMES = [
    *(
        "lr[1e-3]",
        "[!a]",
        "a*",
        "a**b",
        "a?",
        "**",
        "[",
        "two words",
        " ",
        "%d",
        "%20",
        "{x}",
        "$HOME",
    ),
    *(
        "~",
        "été",
        "-dash",
        "a=b",
        "a:b",
        "s3:",
        "a#b",
        "a|b",
        "'a'",
        '"a"',
        "new\nline",
        ".hidden",
        "end~",
    ),
]
SMALL = [
    "data.episodes=8",
    "data.tasks=2",
    "train.batch=4",
    "model.width=8",
    "model.layers=1",
    "agent.trajectories=2",
]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """A spec and a train state of it."""
    spec = describe(labelled(tmp_path_factory.mktemp("data"), episodes=8, tasks=2))
    return spec, fresh(spec)


def save(run, agent, step=1):
    spec, state = agent
    checkpoints = Checkpoints(run)
    checkpoints.prepare()
    checkpoints.save(state._replace(step=jnp.int32(step)), spec.to_dict(), loss=1.0)
    checkpoints.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_in_a_folder_of_any_name_is_read_as_it_was_saved(agent, tmp_path, name):
    run, (spec, state) = tmp_path / name / name, agent
    check_path(run)
    save(run, agent)
    copy = tmp_path / f"{name} copy" / name
    Checkpoints(run).export(1, copy)
    found = Checkpoints(run).state(Checkpoints(run).newest(), state, spec.to_dict())
    jax.tree.map(np.testing.assert_array_equal, found, state._replace(step=1))
    jax.tree.map(np.testing.assert_array_equal, load(copy)._params, state.params)
    with MetricsLog(run) as log:
        log.write(1, {"loss": 1.0})
    assert list((run / "tensorboard").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name} copy"}


def test_a_pattern_does_not_find_the_folders_beside_it(agent, tmp_path):
    """A run `a*`, while another process writes to the folder `ab`."""
    elsewhere = tmp_path / "ab" / "checkpoints" / "1.orbax-checkpoint-tmp"
    for item in ("params", "optimizer"):
        (elsewhere / f"{item}.orbax-checkpoint-tmp" / "ocdbt.process_1").mkdir(parents=True)
    before = files(tmp_path / "ab")
    save(tmp_path / "a*", agent)
    load(tmp_path / "a*")
    assert files(tmp_path / "ab") == before


@pytest.mark.parametrize(
    ("folder", "why"), [("a\\b", r"\\"), ("logs:/a", "gs:/"), ("/s3/a", "/s3/"), ("/gs/a", "/gs/")]
)
def test_a_path_that_libraries_take_for_another_is_refused_before_anything_is_trained(
    tmp_path, folder, why
):
    with pytest.raises(
        ValueError, match=f"no checkpoint can be written there because of {why}; allowed: "
    ):
        check_path(tmp_path / folder)


def test_a_relative_folder_named_as_a_kind_of_storage_has_its_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:").mkdir()
    with MetricsLog(Path("s3:")) as log:
        log.write(1, {"loss": 1.0})
    assert list((tmp_path / "s3:" / "tensorboard").iterdir())


@pytest.mark.parametrize("lost", ["params/manifest.ocdbt", "optimizer/manifest.ocdbt"])
def test_a_save_that_cannot_be_read_back_is_told_and_removed(agent, tmp_path, monkeypatch, lost):
    """Whatever the reason; here a file is gone as soon as it was written."""
    spec, state = agent
    save(tmp_path, agent)
    checkpoints = Checkpoints(tmp_path)
    wait = checkpoints._checkpointer.wait_until_finished

    def wait_and_lose():
        wait()
        (tmp_path / "checkpoints" / "2" / lost).unlink(missing_ok=True)

    monkeypatch.setattr(checkpoints._checkpointer, "wait_until_finished", wait_and_lose)
    checkpoints.save(state._replace(step=jnp.int32(2)), spec.to_dict(), loss=1.0)
    with pytest.raises(
        OSError,
        match=f"checkpoints/2 could not be written .*/{Path(lost).parent}: .* is missing there",
    ):
        checkpoints.close()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]
    assert Checkpoints(tmp_path).newest() == 1


def test_an_export_that_is_not_a_copy_is_told(agent, tmp_path, monkeypatch):
    save(tmp_path / "run", agent)

    def cut_short(source, target, **options):
        shutil.copytree(source, target, **options)
        (target / "params" / "_METADATA").write_bytes(b"")

    monkeypatch.setattr(
        "agentic_transformer.training.checkpoint_reader.shutil",
        type("", (), {**vars(shutil), "copytree": cut_short}),
    )
    with pytest.raises(OSError, match="is not a copy of .*: params/_METADATA differs"):
        Checkpoints(tmp_path / "run").export(1, tmp_path / "copy")


def command(folder, name, *words):
    line = [sys.executable, "-m", f"experiments.{name}", *words]
    done = subprocess.run(
        line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_goes_on_and_is_evaluated_below_folders_of_any_name(tmp_path):
    """From the command line, in a working folder of such a name too."""
    work = tmp_path / "exp [1] *? %d {x} $HOME é="
    labelled(work / "data", episodes=8, tasks=2)
    run = work / "r" / "lr[1e-3]*?%d {x} $HOME é="
    words = [f"run='{run.relative_to(work)}'", *SMALL, "train.steps=2", "train.checkpoint_every=1"]
    command(work, "train", *words)
    whole = load(run)._params
    shutil.rmtree(run / "checkpoints" / "2")
    (run / "status.json").unlink()
    assert "goes on from checkpoint 1" in command(work, "train", *words, "resume=true")
    jax.tree.map(np.testing.assert_array_equal, load(run)._params, whole)
    evaluation = [
        "eval.trajectories=[1,2]",
        "eval.tasks=2",
        "eval.conditions=[own,dataset]",
        "eval.video=false",
    ]
    command(work, "evaluate", words[0], *evaluation)
    records = pd.read_csv(run / "records.csv")
    assert len(records) == 8 and np.isfinite(records["return"]).all()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert {path.name for path in work.iterdir()} == {"data", "r"}
