"""Checkpoints with the names of the version before are read, with one line that says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agentic_transformer.agents.load import load, read_spec
from agentic_transformer.config import TrainConfig
from agentic_transformer.training import old_names
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.sharding import make_mesh
from agentic_transformer.training.state import init_state, make_optimizer
from tests.small_agents import describe, labelled

OLD = {
    "qkv_proj": "project",
    "out_proj": "merge",
    "up_proj": "expand",
    "down_proj": "contract",
    "normalizer": "scaling",
    "return_conditioning": "condition",
    "scan_layers": "rolled",
    "dtype": "compute",
}


NEW = {"imitate", "precision"}
"""Settings that the old version did not have."""


def renamed(tree):
    """A tree of parameters or JSON values with the old names, without new settings."""
    if isinstance(tree, nnx.State):
        return nnx.State(renamed(dict(tree)))
    if isinstance(tree, dict):
        return {OLD.get(key, key): renamed(value) for key, value in tree.items() if key not in NEW}
    if isinstance(tree, tuple):  # of the optimizer, some with names of their own
        parts = map(renamed, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return tree


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A run that an older version saved, its spec and its state."""
    spec = describe(labelled(tmp_path / "data", episodes=8, tasks=2))
    optimizer, _ = make_optimizer(TrainConfig())
    state = init_state(lambda: spec.build(0), optimizer, make_mesh(1))[1]
    old = state._replace(
        step=jnp.int32(1), params=renamed(state.params), optimizer=renamed(state.optimizer)
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.prepare()
    with monkeypatch.context() as older:  # whose own names were today's
        older.setattr(old_names, "current_array", lambda name: name)
        described = renamed(spec.to_dict())
        del described["iql"]  # a learner that it did not know
        checkpoints.save(old, described, loss=1.0)
        checkpoints.close()
    return tmp_path, spec, state


def test_an_old_checkpoint_is_loaded_and_restored(saved, capsys):
    run, spec, state = saved
    checkpoints = Checkpoints(run)
    stored = (checkpoints.folder / "1" / "description" / "metadata").read_text()
    assert all(f'"{old}"' in stored for old in ("scaling", "condition", "rolled", "compute"))
    assert read_spec(checkpoints, 1) == spec
    jax.tree.map(np.testing.assert_array_equal, load(run)._params, state.params)
    restored = checkpoints.state(1, state, spec.to_dict())
    jax.tree.map(np.testing.assert_array_equal, restored, state._replace(step=1))
    assert capsys.readouterr().err.count("written by an older version") == 1


def test_a_checkpoint_of_today_is_read_without_a_word(saved, capsys):
    run, spec, state = saved
    checkpoints = Checkpoints(run)
    checkpoints.save(state._replace(step=jnp.int32(2)), spec.to_dict(), loss=1.0)
    checkpoints.wait()
    checkpoints.state(2, state, spec.to_dict())
    load(run)
    checkpoints.close()
    assert capsys.readouterr().err == ""


def test_other_keys_of_a_spec_stay():
    assert old_names.current_spec({"scaling": 1, "model": {"scaling": 2}, "x": [3]}) == {
        "normalizer": 1,
        "model": {"scaling": 2},
        "x": [3],
    }
