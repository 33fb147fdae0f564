"""The loss at first steps by place in the row is the same on every ring."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from agentic_transformer.config import AgentConfig, ModelConfig, TrainConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.training import sharding
from agentic_transformer.training.state import init_state, make_optimizer
from agentic_transformer.training.step import make_train_step
from tests.seeds import SEED
from tests.small_agents import describe, gradient_operations, labelled
from tests.tolerances import rounding

pytestmark = pytest.mark.slow

ROWS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


def metrics(data, ring, layout, accumulate=1):
    mesh = Mesh(np.array(jax.devices()[:ring]).reshape(1, ring), (sharding.DATA, sharding.RING))
    model = ModelConfig(width=16, layers=1, layout=layout, tokens="separate")
    spec = describe(data, AgentConfig(trajectories=5, loss="all"), model)
    optimizer, _ = make_optimizer(TrainConfig())
    graph, state = init_state(lambda: spec.build(SEED), optimizer, mesh)
    length = 5 * spec.steps * spec.layout().tokens_per_step
    step = make_train_step(graph, optimizer, spec, mesh, length, accumulate)
    rows = ChainLoader(data, spec.agent, spec.layout(), SEED, ROWS)(0)
    return {
        name: float(value)
        for name, value in step(state, sharding.shard_batch(rows, mesh, layout))[1].items()
    }


def test_places_are_the_same_on_every_ring(data):
    alone = metrics(data, 1, "zigzag")
    agent, model = AgentConfig(trajectories=5), ModelConfig(width=16, layers=1, tokens="separate")
    allowed = 2 * rounding(
        gradient_operations(describe(data, agent, model), ROWS)
    )  # one of the metrics is a gradient's norm
    assert {f"first_step_loss_{n}" for n in (1, 2, 4, 5)} <= set(alone)
    for ring, layout, accumulate in ((4, "zigzag", 1), (2, "contiguous", 2)):
        assert metrics(data, ring, layout, accumulate) == pytest.approx(
            alone, rel=allowed, abs=allowed
        )
