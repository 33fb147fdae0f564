"""One train step for any shape of the mesh."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentic_transformer.config import AgentConfig, ModelConfig, TrainConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.models.transformer import AgenticTransformer
from agentic_transformer.ring import feedforward
from agentic_transformer.training import fsdp, sharding
from agentic_transformer.training.state import init_state, make_optimizer
from agentic_transformer.training.step import make_train_step
from tests.courses import allowance, course
from tests.seeds import SEED, rng
from tests.small_agents import describe, gradient_operations, labelled, longest_sum
from tests.tolerances import assert_close, rounding

pytestmark = pytest.mark.slow

STEPS, ROWS = 20, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


def losses(
    data, devices, ring, attention="ring", layout="zigzag", tokens="packed", fsdp=False, **settings
):
    """Returns the losses of training on some of the devices.

    Those of one device come with the allowance for rounding.
    """
    mesh = Mesh(
        np.array(jax.devices()[:devices]).reshape(devices // ring, ring),
        (sharding.DATA, sharding.RING),
    )
    config = TrainConfig(
        batch=ROWS
    )  # the quickstart's optimisation, of which these are the first steps
    model = ModelConfig(
        width=32, layers=2, heads=2, attention=attention, layout=layout, tokens=tokens, **settings
    )
    spec = describe(data, AgentConfig(trajectories=4, chain_length="uniform"), model)
    loader = ChainLoader(data, spec.agent, spec.layout(), SEED, config.batch)
    optimizer, _ = make_optimizer(config)
    graph, state = init_state(lambda: spec.build(SEED), optimizer, mesh, fsdp)
    length = 4 * spec.steps * spec.layout().tokens_per_step
    step = make_train_step(graph, optimizer, spec, mesh, length, fsdp=fsdp)
    batches = [sharding.shard_batch(loader(number), mesh, layout) for number in range(STEPS)]
    found = course(step, state, batches)
    if devices > 1:
        return found.losses
    return found.losses, allowance(step, state, batches, found, longest_sum(spec, config.batch))


def loss_and_gradients(data, params, attention, ring):
    """Returns the loss and its gradients at given parameters.

    One step of plain gradient descent, so fast that the parameters before it do not count.
    """
    rate = 1e6
    mesh = Mesh(np.array(jax.devices()[:ring]).reshape(1, ring), (sharding.DATA, sharding.RING))
    model = ModelConfig(width=32, layers=2, heads=2, attention=attention)
    spec = describe(data, AgentConfig(trajectories=4, chain_length="uniform"), model)
    loader = ChainLoader(data, spec.agent, spec.layout(), SEED, ROWS)
    graph, state = init_state(lambda: spec.build(SEED), optax.sgd(rate), mesh)
    state = state._replace(
        params=jax.tree.map(
            lambda new, old: jax.device_put(new, old.sharding), params, state.params
        )
    )
    step = make_train_step(graph, optax.sgd(rate), spec, mesh, 4 * spec.steps)
    after, metrics = step(state, sharding.shard_batch(loader(0), mesh, "zigzag"))
    gradients = jax.tree.map(
        lambda new, old: (np.asarray(old) - np.asarray(new)) / rate, after.params, params
    )
    return float(metrics["loss"]), np.concatenate([x.ravel() for x in jax.tree.leaves(gradients)])


def trained_parameters(data):
    """Trains a few steps with dense attention."""
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (sharding.DATA, sharding.RING))
    model = ModelConfig(width=32, layers=2, heads=2, attention="dense")
    spec = describe(data, AgentConfig(trajectories=4, chain_length="uniform"), model)
    loader = ChainLoader(data, spec.agent, spec.layout(), SEED, ROWS)
    optimizer, _ = make_optimizer(TrainConfig(batch=ROWS, warmup=5))
    graph, state = init_state(lambda: spec.build(SEED), optimizer, mesh)
    step = make_train_step(graph, optimizer, spec, mesh, 4 * spec.steps)
    for number in range(1, STEPS):
        state, _ = step(state, sharding.shard_batch(loader(number), mesh, "zigzag"))
    return jax.tree.map(np.asarray, state.params)


def test_gradients_agree_over_backbones_at_trained_parameters(data):
    params = trained_parameters(data)
    operations = gradient_operations(
        describe(data, model=ModelConfig(width=32, layers=2, heads=2)), ROWS
    )
    loss, gradients = loss_and_gradients(data, params, "dense", 1)
    for attention, ring in (
        ("memory_efficient", 1),
        ("blockwise", 1),
        ("all_gather", 4),
        ("ring", 4),
        ("ring", 8),
    ):
        found, others = loss_and_gradients(data, params, attention, ring)
        assert_close(found, loss, operations, max(1, abs(loss)))
        # Norms of all numbers together: each is off by its own error, of either sign.
        assert np.linalg.norm(others - gradients) <= 2 * rounding(operations) * np.linalg.norm(
            gradients
        )


@pytest.fixture(scope="module")
def on_one_device(data):
    return losses(data, devices=1, ring=1)


@pytest.mark.parametrize(("devices", "ring"), [(2, 2), (4, 4), (8, 2)])
def test_losses_agree_over_ring_sizes_and_data_axes(data, on_one_device, devices, ring):
    expected, allowed = on_one_device
    allowed.check_losses(losses(data, devices, ring), expected)


@pytest.mark.parametrize("attention", ["dense", "memory_efficient", "blockwise", "all_gather"])
def test_losses_agree_over_backbones(data, on_one_device, attention):
    expected, allowed = on_one_device
    allowed.check_losses(
        losses(data, 2, 1 if attention != "all_gather" else 2, attention), expected
    )


def test_losses_of_separate_tokens_agree_over_rings_and_backbones(data):
    expected, allowed = losses(data, 1, 1, "dense", tokens="separate")
    allowed.check_losses(losses(data, 8, 4, tokens="separate"), expected)


@pytest.mark.parametrize(("devices", "ring"), [(8, 8), (8, 2), (6, 3)])
def test_losses_agree_where_the_state_is_sharded_over_the_whole_mesh(
    data, on_one_device, devices, ring
):
    """The settings of a pod: rolled, rematerialised layers. 6 devices divide few of the axes."""
    found = losses(
        data, devices, ring, fsdp=True, scan_layers=True, remat="block", blockwise_feedforward=True
    )
    expected, allowed = on_one_device
    allowed.check_losses(found, expected)


def test_losses_agree_over_chunks_of_the_feedforward(data, on_one_device, monkeypatch):
    monkeypatch.setattr(feedforward, "MIN_CHUNK", 3)
    found = losses(data, 4, 2, scan_layers=True, blockwise_feedforward=True)
    expected, allowed = on_one_device
    allowed.check_losses(found, expected)


def test_gradients_of_kernels_in_16_bits_are_summed_over_devices_in_float32():
    """256 tokens of one device, and one of each of the other seven, are 263: no bfloat16."""
    config = ModelConfig(width=8, layers=1, dtype="bfloat16")
    model = AgenticTransformer(config, 6, 2, 4, nnx.Rngs(0))
    (block,) = model.blocks
    ones = np.zeros((8, 256, 1), np.float32)
    ones[0] = ones[1:, 0] = 1
    by_rows = NamedSharding(sharding.make_mesh(ring=1), PartitionSpec(sharding.DATA))
    for layer in (model.embed, block.qkv_proj, block.out_proj, block.up_proj, block.down_proj):
        graph, params = nnx.split(layer)

        def total(params, inputs, graph=graph):
            return nnx.merge(graph, params)(inputs).astype(jnp.float32).sum()

        inputs = jax.device_put(np.repeat(ones, layer.in_features, axis=2), by_rows)
        gradient = jax.jit(jax.grad(total))(params, inputs)["kernel"][...]
        np.testing.assert_array_equal(gradient, np.full_like(gradient, 263))


def test_state_is_cut_where_it_divides():
    """The longest axis is cut first, and the next by what is left of the devices."""
    mesh = Mesh(np.array(jax.devices()).reshape(1, 8), (sharding.DATA, sharding.RING))
    shapes = {
        (3, 20, 60): (3, 10, 15),
        (3, 16, 16): (3, 2, 16),
        (5, 7): (5, 7),
        (): (),
        (12,): (3,),
    }
    for shape, part in shapes.items():
        assert fsdp.state_sharding(shape, mesh, fsdp=True).shard_shape(shape) == part
        assert fsdp.state_sharding(shape, mesh, fsdp=False).shard_shape(shape) == shape


def test_chunks_of_a_feedforward_on_a_mesh_give_the_gradients_of_the_whole():
    data = rng(3)
    x, up, down = (
        jnp.asarray(data.standard_normal(shape), jnp.float32)
        for shape in ((4, 48, 8), (8, 32), (32, 8))
    )
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), (sharding.DATA, sharding.RING))

    def function(params, x):
        return jax.nn.relu(x @ params[0]) @ params[1]

    def loss(apply, params, x):
        return jnp.sum(jnp.sin(apply(function, params, x)))

    on_mesh = partial(
        feedforward.blockwise_feedforward, mesh=mesh, batch_axis=sharding.DATA, chunk=5
    )
    found = jax.grad(partial(loss, on_mesh), argnums=(0, 1))((up, down), x)
    whole = jax.grad(
        partial(loss, lambda function, params, x: function(params, x)), argnums=(0, 1)
    )((up, down), x)
    for gradient, expected in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        # Products over 8 and 32 numbers and back, a sine, and the sum over 192 tokens.
        assert_close(gradient, expected, 2 * (8 + 32 + 4) + 192)
