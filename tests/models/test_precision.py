"""Products of a model have the precision of its setting, unless the user has chosen one.

In a model of 16 bits the gradients of all parameters are summed in float32.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agentic_transformer.agents.actor import ActorAgent
from agentic_transformer.config import AgentConfig, ModelConfig, TD3BCConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Actor, Shape, init_networks
from agentic_transformer.models.heads import action_loss
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.models.transformer import AgenticTransformer
from agentic_transformer.ring import attention, blockwise_attention, feedforward
from agentic_transformer.ring.kernels import NAMES
from agentic_transformer.ring.precision import PRECISIONS
from agentic_transformer.training.actor_critic import init_actor_critic_state
from agentic_transformer.training.td3_bc import make_td3_bc_step
from experiments.benchmarks import agent_models
from tests.seeds import rng
from tests.small_agents import kept_operations
from tests.tolerances import unit

CHOICES = {field.name: field.metadata["choices"] for field in dataclasses.fields(ModelConfig)}


def products(lowered):
    """Returns the precisions of all products in a lowered program."""
    lines = [line for line in lowered.splitlines() if "dot_general" in line]
    return {re.search(r"precision = \[(\w+), \1\]", line)[1] for line in lines}


def precision_of(setting):
    def product(x):
        with matmul_precision(setting):
            return x @ x

    return jax.jit(product).lower(jnp.ones((4, 4))).as_text().count("HIGHEST")


def test_highest_is_asked_for_and_default_is_not():
    assert precision_of("highest") and not precision_of("default")


@pytest.mark.parametrize("setting", PRECISIONS)
def test_the_choice_of_the_user_comes_first(setting):
    with jax.default_matmul_precision("tensorfloat32"):
        assert not precision_of(setting)
    with jax.default_matmul_precision("highest"):
        assert precision_of(setting)


def test_settings_name_what_the_ring_has():
    assert CHOICES["kernel"] == NAMES and CHOICES["precision"] == PRECISIONS


@pytest.mark.parametrize("setting", PRECISIONS)
def test_attention_of_a_model_has_the_model_s_precision(setting):
    def attend(x):
        with matmul_precision(setting):
            return blockwise_attention(x, x, x, kernel="xla")

    lowered = jax.jit(attend).lower(jnp.ones((1, 4, 1, 8))).as_text()
    assert products(lowered) == {setting.upper()}


@pytest.mark.parametrize("wrap", [lambda call: call, jax.jit, jax.checkpoint])
def test_a_feedforward_in_chunks_keeps_the_precision_in_which_it_was_called(wrap):
    """Forward and backward, also where JAX traces them after the call."""

    def call(params, x):
        with jax.default_matmul_precision("highest"):
            return feedforward.blockwise_feedforward(
                lambda params, x: x @ params, params, x, chunk=4
            ).sum()

    arguments = jnp.ones((8, 8)), jnp.ones((1, 16, 8))
    lowered = jax.jit(jax.value_and_grad(wrap(call), argnums=(0, 1))).lower(*arguments)
    assert products(lowered.as_text()) == {"HIGHEST"}


@pytest.mark.parametrize("remat", CHOICES["remat"])
@pytest.mark.parametrize("setting", PRECISIONS)
def test_a_transformer_trains_in_the_precision_of_its_setting(setting, remat, monkeypatch):
    """The products of gradients too, which JAX traces after the model has been called."""
    monkeypatch.setattr(feedforward, "MIN_CHUNK", 4)
    model = ModelConfig(
        width=8, layers=2, heads=1, remat=remat, blockwise_feedforward=True, precision=setting
    )
    step, state, batch = agent_models.train_step(
        agent_models.describe(2, 8, 3, 2, model), rows=1, devices=1
    )
    assert products(step.lower(state, batch).as_text()) == {setting.upper()}


def td3_bc(precision):
    """The networks of a small TD3+BC, their parameters, and their spec."""
    spec = AgentSpec(
        task="point_mass_goal",
        seed=0,
        agent=AgentConfig(learner="td3_bc"),
        model=ModelConfig(precision=precision),
        normalizer=Normalizer((0.0,) * 3, (1.0,) * 3, 1.0, 1.0),
        observation_size=3,
        action_size=2,
        steps=5,
        best_return=1.0,
        td3_bc=TD3BCConfig(width=4, layers=1),
    )
    return *init_networks(Shape.of(spec), seed=0), spec


@pytest.mark.parametrize("setting", PRECISIONS)
def test_td3_bc_trains_in_the_precision_of_its_setting(setting):
    graphs, params, spec = td3_bc(setting)
    state, rows = init_actor_critic_state(params, spec.td3_bc), jnp.ones((4, 3))
    batch = Transitions(
        observation=rows, action=jnp.ones((4, 2)), reward=jnp.ones(4), next_observation=rows
    )
    step = make_td3_bc_step(graphs, spec.td3_bc, 0, setting)
    assert products(step.lower(state, batch).as_text()) == {setting.upper()}


@pytest.mark.parametrize("setting", PRECISIONS)
def test_td3_bc_acts_in_the_precision_of_its_setting(setting, monkeypatch):
    traced, call = [], Actor.__call__

    def traced_call(self, observation):
        traced.append(jax.config.jax_default_matmul_precision)
        return call(self, observation)

    monkeypatch.setattr(Actor, "__call__", traced_call)
    agent = ActorAgent(*td3_bc(setting))
    context = agent.new_context(4, 1)
    agent.act(context, np.ones(4), np.ones((4, 3)), 0, jax.random.key(0), 1.0, 1.0)
    assert traced == [setting]


def gradients(dtype, features, action):
    """The gradients of a small model's losses; trajectories have four steps."""
    config = ModelConfig(width=16, layers=1, heads=2, head="mse", dtype=dtype)
    model = AgenticTransformer(config, features.shape[-1], action.shape[-1], 4, nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    timestep = jnp.broadcast_to(jnp.arange(features.shape[1]) % 4, features.shape[:2])

    def loss(params):
        outputs = nnx.merge(graph, params)(
            features, timestep, lambda _, q, k, v: attention(q, k, v, backbone="dense")
        )
        return action_loss(config, outputs, action).sum() / 64  # float16 holds all of it

    return nnx.to_flat_state(jax.jit(jax.grad(loss))(params))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_in_16_bits_are_those_of_float32(dtype):
    """Leaf by leaf.

    Each token's part has n roundings to 16 bits, forward and twice that backward. Their errors
    are independent, so that of a part is about sqrt(n) of one; and of the sum over tokens too,
    as parts that cancel each other leave no less than the root of the sum of their squares.
    """
    data = rng(6)
    batch = data.standard_normal((512, 64, 6), np.float32), data.uniform(-0.1, 0.7, (512, 64, 2))
    allowed = np.sqrt(3 * kept_operations(ModelConfig(layers=1))) * unit(dtype)
    pairs = zip(gradients("float32", *batch), gradients(dtype, *batch), strict=True)
    for (name, exact), (_, found) in pairs:
        error = np.linalg.norm(found[...] - exact[...]) / np.linalg.norm(exact[...])
        assert error < allowed, name
