"""Saves untrained agents as checkpoints."""

import jax.numpy as jnp

from agentic_transformer.config import TrainConfig
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.sharding import make_mesh
from agentic_transformer.training.state import init_state, make_optimizer


def save(run, description, step):
    """Saves a checkpoint of an agent whose parameters depend on the step."""
    checkpoints = Checkpoints(run)
    checkpoints.prepare()
    state = init_state(
        lambda: description.build(step), make_optimizer(TrainConfig())[0], make_mesh(1)
    )[1]
    checkpoints.save(state._replace(step=jnp.int32(step)), description.to_dict(), loss=1.0)
    checkpoints.close()
