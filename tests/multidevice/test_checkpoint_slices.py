"""Arrays that all devices hold are saved in slices if they are large, and whole if they are not."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.sharding import make_mesh
from agentic_transformer.training.state import TrainState
from tests.seeds import rng


def test_a_state_that_all_devices_hold_is_read_as_it_was_saved(tmp_path):
    """Eight slices of the large array have a megabyte each, those of the small one 64 bytes."""
    everywhere = NamedSharding(make_mesh(8), PartitionSpec())
    arrays = {"large": (2048, 1024), "small": (8, 16)}
    drawn = {name: rng(0).standard_normal(shape, np.float32) for name, shape in arrays.items()}
    params = jax.device_put(drawn, everywhere)
    state = TrainState(jnp.int32(1), params, {"moment": params["small"]})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.prepare()
    checkpoints.save(state, {}, loss=1.0)
    checkpoints.close()
    found = Checkpoints(tmp_path).params(1, params)
    for name, array in drawn.items():
        np.testing.assert_array_equal(found[name], array)
