"""Products of a model have the precision of its setting, unless the user has chosen one."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentic_transformer.agents.actor import ActorAgent
from agentic_transformer.config import AgentConfig, ModelConfig, TD3BCConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Actor, Shape, init_networks
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.ring import blockwise_attention, feedforward
from agentic_transformer.ring.kernels import NAMES
from agentic_transformer.ring.precision import PRECISIONS
from agentic_transformer.training.actor_critic import init_actor_critic_state
from agentic_transformer.training.td3_bc import make_td3_bc_step
from experiments.benchmarks import agent_models

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
