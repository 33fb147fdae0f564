"""Acting with a key/value cache sharded over the ring against acting on one device."""

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents.base import Trajectory
from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training import sharding
from tests.seeds import SEED, rng
from tests.small_agents import forward_operations
from tests.tolerances import assert_close

pytestmark = pytest.mark.slow

BATCH, SLOTS, STEPS, OBSERVATION, ACTION = 4, 3, 5, 4, 2


def make_policy(mesh, tokens):
    description = AgentSpec(
        task="point_mass_goal", seed=0, agent=AgentConfig(trajectories=SLOTS),
        model=ModelConfig(width=32, layers=2, heads=2, head="mse", tokens=tokens),
        normalizer=Normalizer((0.0,) * OBSERVATION, (1.0,) * OBSERVATION, 1.0, 1.0),
        observation_size=OBSERVATION, action_size=ACTION, steps=STEPS, best_return=1.0,
    )  # fmt: skip
    return TransformerAgent(*nnx.split(description.build(SEED), nnx.Param), description, mesh)


def actions(policy):
    """Two encoded trajectories, then five steps."""
    data = rng(0)
    context = policy.new_context(BATCH, SLOTS)
    for _ in range(SLOTS - 1):
        trajectory = Trajectory(
            data.normal(size=(BATCH, STEPS, OBSERVATION)),
            data.uniform(-1, 1, (BATCH, STEPS, ACTION)),
            data.uniform(0, 1, (BATCH, STEPS)),
            np.ones(BATCH),
        )
        context = policy.append(context, trajectory)
    found = []
    for step in range(STEPS):
        observation = data.normal(size=(BATCH, OBSERVATION))
        action, context = policy.act(
            context, np.ones(BATCH), observation, step, jax.random.key(step), 1.0, 1.0
        )
        found.append(action)
    return np.stack(found), context.cache[0][0]


@pytest.mark.parametrize("tokens", ["packed", "separate"])
@pytest.mark.parametrize(("data", "ring"), [(1, 8), (2, 4)])
def test_actions_are_those_of_one_device(data, ring, tokens):
    mesh = Mesh(np.array(jax.devices()).reshape(data, ring), (sharding.DATA, sharding.RING))
    alone = make_policy(None, tokens)
    expected, _ = actions(alone)
    found, cache = actions(make_policy(mesh, tokens))
    assert_close(found, expected, forward_operations(alone.spec), 1)  # outputs cut to [-1, 1]
    shard = cache.addressable_shards[0].data.shape
    assert shard[:2] == (BATCH // data, cache.shape[1] // ring)


def test_a_batch_that_does_not_divide_over_the_mesh_is_refused():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), (sharding.DATA, sharding.RING))
    with pytest.raises(ValueError, match="^a batch of size 3 does not divide over the 2"):
        make_policy(mesh, "packed").new_context(3, SLOTS)
