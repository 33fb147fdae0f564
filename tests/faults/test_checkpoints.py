"""What may happen to checkpoints on disk, and while they are written."""

import errno
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.agents.load import load
from agentic_transformer.config import AgentConfig, ExportCommand, ModelConfig, TrainConfig
from agentic_transformer.run_files import CONFIG, PROVENANCE
from agentic_transformer.training import checksums
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.sharding import make_mesh
from agentic_transformer.training.state import init_state, make_optimizer
from experiments import export
from experiments.cli.user_errors import describe as told
from tests.small_agents import describe, labelled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"), episodes=8, tasks=2)


def fresh(spec):
    optimizer, _ = make_optimizer(TrainConfig())
    return init_state(lambda: spec.build(0), optimizer, make_mesh(1))[1]


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    """A run with checkpoints of steps 1 and 2, and its agent."""
    run, spec = tmp_path_factory.mktemp("saved"), describe(data)
    checkpoints, state = Checkpoints(run), fresh(spec)
    checkpoints.prepare()
    for step in (1, 2):
        checkpoints.save(state._replace(step=jnp.int32(step)), spec.to_dict(), loss=1.0)
    checkpoints.close()
    return run, spec


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "run")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def large_file(step):
    """A file of a checkpoint that holds numbers."""
    return next(
        path for path in files(step) if path.parent.name == "d" and path.stat().st_size > 500
    )


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def test_any_flipped_bit_is_found(run):
    """Places drawn over all bytes of a checkpoint, its list included."""
    step, rng = run / "checkpoints" / "2", np.random.default_rng(0)
    sizes = np.array([path.stat().st_size for path in files(step)])
    for _ in range(40):
        path = files(step)[rng.choice(len(sizes), p=sizes / sizes.sum())]
        content = path.read_bytes()
        flip(path, rng)
        assert str(path) in checksums.problem(step)
        path.write_bytes(content)
    assert checksums.problem(step) == ""


@pytest.mark.parametrize("fault", ["flip", "truncate", "empty", "delete", "add"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(run, saved, fault, capsys):
    path = large_file(run / "checkpoints" / "2")
    content = path.read_bytes()
    if fault == "flip":
        flip(path, np.random.default_rng(1))
    elif fault == "truncate":
        path.write_bytes(content[:-1])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "delete":
        path.unlink()
    else:
        path = path.with_name("more")
        path.write_bytes(b"more")
    assert Checkpoints(run).newest() == 1
    assert f"checkpoint 2 is not whole: {path}" in capsys.readouterr().err
    load(run)
    checkpoints = Checkpoints(run)
    assert checkpoints.prepare() == 1
    checkpoints.save(fresh(saved[1])._replace(step=jnp.int32(2)), saved[1].to_dict(), loss=1.0)
    checkpoints.close()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2", "damaged-2"]
    assert Checkpoints(run).newest() == 2


def test_a_checkpoint_that_cannot_be_read_is_named_and_the_one_before_it_taken(
    run, monkeypatch, capsys
):
    read = checksums._sha256

    def failing(path):
        if "checkpoints/2/" in str(path):
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(checksums, "_sha256", failing)
    assert Checkpoints(run).newest() == 1
    assert "cannot be read: Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize(("which", "checked", "found"), [("newest", 2, 3), ("best", 1, 2)])
def test_a_checkpoint_that_a_run_removes_while_it_is_checked_is_passed_over(
    run, which, checked, found, monkeypatch, capsys
):
    """The run saves step 3 meanwhile."""
    read, steps = checksums._sha256, run / "checkpoints"

    def removed(path):
        monkeypatch.setattr(checksums, "_sha256", read)
        (steps / f"{checked}").rename(steps / "3")
        return read(path)

    monkeypatch.setattr(checksums, "_sha256", removed)
    assert Checkpoints(run).find(which) == found
    assert capsys.readouterr().err == ""


def test_an_export_of_a_checkpoint_that_a_run_removes_meanwhile_says_so(run, tmp_path, monkeypatch):
    copy = shutil.copytree

    def removed(source, *how, **more):
        monkeypatch.setattr("shutil.copytree", copy)
        shutil.rmtree(source)
        return copy(source, *how, **more)

    monkeypatch.setattr("shutil.copytree", removed)
    with pytest.raises(ValueError, match="checkpoints/2 is not there, or no longer"):
        Checkpoints(run).export(2, tmp_path / "copy")


def test_an_old_checkpoint_whose_loss_cannot_be_read_does_not_stop_training(run, saved):
    next((run / "checkpoints" / "1" / "metrics").iterdir()).write_text("")
    checkpoints = Checkpoints(run, keep=1, keep_best=1)
    checkpoints.prepare()
    checkpoints.save(fresh(saved[1])._replace(step=jnp.int32(3)), saved[1].to_dict(), loss=2.0)
    checkpoints.close()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["2", "3"]


def test_a_checkpoint_is_never_overwritten(run, saved):
    checkpoints = Checkpoints(run)
    with pytest.raises(ValueError, match="checkpoints/2 is there already, and stays as it is"):
        checkpoints.save(fresh(saved[1])._replace(step=jnp.int32(2)), saved[1].to_dict(), loss=0.0)
    checkpoints.close()
    assert Checkpoints(run).newest() == 2


def test_a_step_without_its_list_does_not_count(run):
    (run / "checkpoints" / "2" / checksums.SUMS_FILE).unlink()
    assert Checkpoints(run).newest() == 1


def test_what_killed_saves_left_is_removed(run):
    (run / "checkpoints" / "3.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (run / "checkpoints" / "1.orbax-checkpoint-tmp-removed").mkdir()
    assert Checkpoints(run).prepare() == 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]


def test_an_exported_checkpoint_acts_as_its_original_but_is_not_trained_further(
    run, saved, tmp_path
):
    Checkpoints(run).export(2, tmp_path / "copy")
    copy = Checkpoints(tmp_path / "copy")
    assert copy.newest() == 2
    chosen = [load(folder).act(*first_step(load(folder)))[0] for folder in (run, tmp_path / "copy")]
    np.testing.assert_array_equal(*chosen)
    assert not [
        path for path in files(tmp_path / "copy") if str(tmp_path).encode() in path.read_bytes()
    ]
    with pytest.raises(ValueError, match="without its optimizer"):
        copy.state(2, fresh(saved[1]), saved[1].to_dict())


def test_an_export_is_there_whole_or_not_at_all(run, tmp_path):
    command = ExportCommand(run=str(run), out=str(tmp_path / "copies" / "one"))
    (run / CONFIG).touch()
    (run / PROVENANCE).mkdir()  # no file, so the last copy fails
    before = files(run)
    with pytest.raises(IsADirectoryError, match=PROVENANCE):
        export.main(command, run)
    assert files(run) == before and files(tmp_path / "copies") == []
    (run / PROVENANCE).rmdir()
    (run / PROVENANCE).touch()
    copy = export.main(command, run)
    assert copy == Path(command.out) and {path.name for path in copy.iterdir()} == {
        *(CONFIG, PROVENANCE),
        "checkpoints",
    }


def first_step(agent):
    """What a agent acts on in two empty contexts."""
    observation = np.ones((2, agent.spec.observation_size))
    return agent.new_context(2, 1), np.ones(2), observation, 0, jax.random.key(0), 1.0, 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": ModelConfig(width=32, layers=1)}, "model.width is 16 there and 32 here"),
        (
            {"agent": AgentConfig(trajectories=4, loss="all")},
            "agent.loss is good there and all here",
        ),
    ],
)
def test_another_agents_checkpoint_is_refused(run, data, change, says):
    """Its data may differ, too, which is not what the error is about."""
    other = replace(describe(data, **change), best_return=-1.0)
    with pytest.raises(ValueError, match=f"{run}.*{says}"):
        Checkpoints(run).state(2, fresh(other), other.to_dict())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda params: params["head"].update(bias=jnp.zeros(3)),
            r"head.bias is missing there|head.bias.value is",
        ),
        (
            lambda params: params["head"].update(more=jnp.zeros(3)),
            r"head.more is missing there, the agent's is float32\[3\]",
        ),
        (
            lambda params: params.pop("norm"),
            r"norm.bias.value is float32\[16\] there, the agent's is missing",
        ),
        (
            lambda params: params["norm"].update(
                jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["norm"])
            ),
            r"norm.bias.value is float32\[16\] there, the agent's is bfloat16\[16\]",
        ),
        (
            lambda params: params["norm"].update(jax.tree.map(lambda x: x[:8], params["norm"])),
            r"norm.bias.value is float32\[16\] there, the agent's is float32\[8\]",
        ),
    ],
)
def test_arrays_are_never_cast_nor_reshaped(run, saved, change, says):
    params = fresh(saved[1]).params
    change(params)
    with pytest.raises(ValueError, match=says) as error:
        Checkpoints(run).params(2, params)
    assert str(run / "checkpoints" / "2" / "params") in str(error.value)


def test_the_newest_and_the_best_are_kept(data, tmp_path):
    spec = describe(data)
    checkpoints, state = Checkpoints(tmp_path, keep=2, keep_best=1), fresh(spec)
    checkpoints.prepare()
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.5, 2.0], 1):
        checkpoints.save(state._replace(step=jnp.int32(step)), spec.to_dict(), loss)
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    checkpoints = Checkpoints(tmp_path)
    assert [checkpoints.find(which) for which in ("newest", "best", "4")] == [5, 2, 4]
    with pytest.raises(ValueError, match="no checkpoint 3 in .*; whole ones there: 2, 4, 5"):
        checkpoints.find("3")
    next((tmp_path / "checkpoints" / "2" / "metrics").iterdir()).write_text("")
    assert checkpoints.find("best") == 5


def test_checkpoints_are_counted_by_their_numbers_and_the_newest_of_equals_is_the_best(run, saved):
    """10 comes after 9, and after 2. A run that made too few steps has no loss of its own."""
    checkpoints = Checkpoints(run, keep=2, keep_best=1)
    checkpoints.prepare()
    for step in (9, 10):
        checkpoints.save(fresh(saved[1])._replace(step=jnp.int32(step)), saved[1].to_dict(), np.inf)
        checkpoints.wait()
        assert checkpoints.newest() == step
    checkpoints.close()
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["10", "2", "9"]  # of 1 and 2, whose losses are equal, the newer one
    assert [checkpoints.find(which) for which in ("newest", "best")] == [10, 2]
    shutil.rmtree(run / "checkpoints" / "2")
    assert checkpoints.find("best") == 10
    with pytest.raises(ValueError, match="whole ones there: 9, 10"):
        checkpoints.find("2")


def test_a_save_holds_the_state_as_it_was_though_training_goes_on_in_its_memory(data, tmp_path):
    """On a CPU a save may look at the very memory that the next steps are given to write to."""
    spec = describe(data, model=ModelConfig(width=256, layers=2))
    advance = jax.jit(
        lambda tree: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), tree), donate_argnums=0
    )
    checkpoints, state = Checkpoints(tmp_path, keep=4), fresh(spec)
    checkpoints.prepare()
    expected = {}
    for step in range(1, 5):
        state = advance(state)
        expected[step] = jax.tree.map(lambda x: np.array(x, copy=True), state)
        checkpoints.save(state, spec.to_dict(), loss=0.0)
        for _ in range(20):
            state = advance(state)
        state = state._replace(step=jnp.int32(step))
    checkpoints.close()
    like = fresh(spec)
    for step, there in expected.items():
        jax.tree.map(
            np.testing.assert_array_equal,
            Checkpoints(tmp_path).state(step, like, spec.to_dict())[1:],
            there[1:],
        )


def test_what_cannot_be_read_back_is_no_checkpoint(run, saved, monkeypatch):
    """A file system may say that all is written, and lack a file."""
    checkpoints = Checkpoints(run)
    checkpoints.prepare()
    finish = checkpoints._checkpointer.wait_until_finished

    def finish_without_a_file():  # called before the save, too
        finish()
        (run / "checkpoints" / "3" / "params" / "manifest.ocdbt").unlink(missing_ok=True)

    monkeypatch.setattr(checkpoints._checkpointer, "wait_until_finished", finish_without_a_file)
    checkpoints.save(fresh(saved[1])._replace(step=jnp.int32(3)), saved[1].to_dict(), loss=0.0)
    with pytest.raises(OSError, match="checkpoints/3 could not be written"):
        checkpoints.wait()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]


def test_a_damaged_checkpoint_is_never_the_best_nor_is_a_bad_copy_an_export(
    run, tmp_path, monkeypatch
):
    """Losses are equal, so the newer one is the best until it is damaged."""
    assert Checkpoints(run).find("best") == 2
    copy = shutil.copytree

    def bad_copy(source, target, *how, **more):  # which calls itself for each folder within
        copy(source, target, *how, **more)
        if target == tmp_path / "copy" / "checkpoints" / "2":
            flip(large_file(target), np.random.default_rng(0))

    with monkeypatch.context() as patched:
        patched.setattr("shutil.copytree", bad_copy)
        with pytest.raises(OSError, match="is not a copy of .*checkpoints/2"):
            Checkpoints(run).export(2, tmp_path / "copy")
    flip(large_file(run / "checkpoints" / "2"), np.random.default_rng(0))
    assert Checkpoints(run).find("best") == 1


def test_a_full_disk_is_reported_and_spares_the_checkpoint_before(data, tmp_path, monkeypatch):
    spec = describe(data)
    checkpoints, state = Checkpoints(tmp_path), fresh(spec)
    checkpoints.prepare()
    checkpoints.save(state._replace(step=jnp.int32(1)), spec.to_dict(), loss=0.0)
    checkpoints.wait()

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checksums, "write", full)
    checkpoints.save(state._replace(step=jnp.int32(2)), spec.to_dict(), loss=0.0)
    with pytest.raises(
        OSError, match="checkpoints/2 could not be written .* No space left on device"
    ):
        checkpoints.wait()
    assert checkpoints.newest() == 1
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]


def test_a_checkpoint_that_the_disk_has_no_room_for_is_told_in_one_line(run, saved):
    """The checkpoint before it stays, and the run goes on once there is room."""
    spec, checkpoints = saved[1], Checkpoints(run)
    assert checkpoints.prepare() == 2
    state = fresh(spec)._replace(step=jnp.int32(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # bytes of a file
    try:
        with pytest.raises(OSError) as caught:
            checkpoints.save(state, spec.to_dict(), loss=0.0)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = "(earlier ones are as they were)"
    assert told(caught.value) == (
        f"checkpoint {run}/checkpoints/3 could not be written {kept}: {os.strerror(errno.EFBIG)}"
    )
    load(run)
    checkpoints.save(state, spec.to_dict(), loss=0.0)
    checkpoints.close()
    assert Checkpoints(run).newest() == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_what_tensorstore_says_of_it(run, saved, number, monkeypatch):
    checkpoints = Checkpoints(run)

    def full():
        raise ValueError(
            f"RESOURCE_EXHAUSTED: Failed to write 5009 bytes [os_error_code='{number}']"
        )

    monkeypatch.setattr(checkpoints._checkpointer, "wait_until_finished", full)
    with pytest.raises(OSError) as caught:
        checkpoints.save(fresh(saved[1])._replace(step=jnp.int32(3)), saved[1].to_dict(), loss=0.0)
        checkpoints.wait()
    assert told(caught.value).endswith(f"were): {os.strerror(number)}")
    load(run)
