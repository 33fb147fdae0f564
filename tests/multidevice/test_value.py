"""Training with a value against the formulas in numpy float64, on one device and on a ring."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.contexts.chain_tokens import encode_chains
from agentic_transformer.contexts.chains import Chains
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.models.transformer import unrolled
from agentic_transformer.training import sharding
from agentic_transformer.training.state import init_state
from agentic_transformer.training.step import make_train_step
from datasets import Trajectories
from tests.seeds import SEED, rng
from tests.small_agents import forward_operations, gradient_operations
from tests.tolerances import assert_close, assert_within, rounding

pytestmark = pytest.mark.slow

ROWS, SLOTS, STEPS, OBSERVATION, ACTION = 2, 3, 4, 2, 2
MODEL = ModelConfig(width=8, layers=2, heads=2, components=2, log_std_min=-1.0)
AGENT = AgentConfig(
    trajectories=SLOTS,
    chain_length="uniform",
    return_conditioning="none",
    weighting="advantage",
    advantage_temperature=0.5,
    value_weight=3.0,
)
RATE = 1e6
"""A step of plain descent so fast that the parameters before it do not count."""


def describe(model=MODEL, agent=AGENT):
    """An agent of this file's sizes."""
    normalizer = Normalizer((0.5, -1.0), (2.0, 4.0), return_scale=3.0, reward_scale=1.0)
    return AgentSpec("point_mass_goal", 0, agent, model, normalizer, OBSERVATION, ACTION, STEPS, 3)


def batch(spec):
    """Tokens of two rows, the first with two chains; their raw rewards, (B * n, T)."""
    data, count = rng(0), ROWS * SLOTS
    trajectories = Trajectories(
        observation=data.normal(size=(count, STEPS, OBSERVATION)).astype(np.float32),
        action=data.uniform(-1, 1, (count, STEPS, ACTION)).astype(np.float32),
    )
    reward = data.uniform(0, 1, (count, STEPS)).astype(np.float32)
    chains = Chains(
        task=np.zeros((ROWS, SLOTS), np.int32),
        episode=np.arange(count, dtype=np.int32).reshape(ROWS, SLOTS),
        chain=np.array([[0, 0, 1], [0, 0, 0]], np.int32),
        target=reward.sum(axis=1).reshape(ROWS, SLOTS),
        weight=np.array([[0, 1, 1], [0, 0, 1]], np.float32),
    )
    with_value = spec.agent.weighting == "advantage"
    return (
        encode_chains(spec.layout(), chains, trajectories, reward, with_rest_return=with_value),
        reward,
    )


def step_of(spec, params=None, ring=1, accumulate=1, fsdp=False):
    """Returns the parameters before one step, its gradients and its metrics."""
    mesh = Mesh(np.array(jax.devices()[:ring]).reshape(1, ring), (sharding.DATA, sharding.RING))
    graph, state = init_state(lambda: spec.build(SEED), optax.sgd(RATE), mesh, fsdp)
    length = SLOTS * STEPS * spec.layout().tokens_per_step
    step = make_train_step(graph, optax.sgd(RATE), spec, mesh, length, accumulate, fsdp)
    before = jax.tree.map(np.asarray, state.params)
    tokens = sharding.shard_batch(batch(spec)[0], mesh, spec.model.layout)
    after, metrics = step(state, tokens)
    gradients = jax.tree.map(
        lambda new, old: (old.astype(np.float64) - np.asarray(new)) / RATE, after.params, before
    )
    return before, gradients, {name: float(value) for name, value in metrics.items()}


def flat(params):
    """Arrays in float64 by names such as `blocks.0.qkv_proj.kernel`."""
    return {
        ".".join(map(str, path)): np.asarray(value[...], np.float64)
        for path, value in nnx.to_flat_state(params)
    }


def norm(p, name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centred / scale * p[f"{name}.scale"] + p[f"{name}.bias"]


def heads(p, tokens):
    """The transformer's outputs and values, token rows in natural order."""
    x = tokens.features.astype(np.float64) @ p["embed.kernel"] + p["embed.bias"]
    x = x + p["timestep.embedding"][tokens.timestep]
    sees = np.tril(np.ones((x.shape[1],) * 2, bool)) & (
        tokens.segment[:, :, None] == tokens.segment[:, None, :]
    )
    for layer in range(MODEL.layers):
        name = f"blocks.{layer}"
        qkv = norm(p, f"{name}.attention_norm", x) @ p[f"{name}.qkv_proj.kernel"]
        q, k, v = np.moveaxis(qkv.reshape(*x.shape[:2], 3, MODEL.heads, -1), 2, 0)
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        weights = np.exp(scores) * sees[:, None]
        weights /= weights.sum(axis=-1, keepdims=True)
        attended = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        x = x + attended @ p[f"{name}.out_proj.kernel"]
        inner = norm(p, f"{name}.feedforward_norm", x) @ p[f"{name}.up_proj.kernel"]
        inner = np.maximum(inner + p[f"{name}.up_proj.bias"], 0)
        x = x + inner @ p[f"{name}.down_proj.kernel"] + p[f"{name}.down_proj.bias"]
    x = norm(p, "norm", x)
    value = x @ p["value_head.kernel"] + p["value_head.bias"]
    return x @ p["head.kernel"] + p["head.bias"], value[..., 0]


def losses(p, spec, omega=None):
    """Returns loss, loss of actions, loss of values, and the weights of the tokens by advantage.

    Args:
        omega: such weights that are to be used; a gradient takes them for constants.
    """
    tokens, reward = batch(spec)
    outputs, value = heads(p, tokens)
    per_step = spec.layout().tokens_per_step
    acts = np.arange(outputs.shape[1]) % per_step == spec.layout().action_token
    outputs, value = outputs[:, acts], value[:, acts]
    rest = reward.astype(np.float64)[:, ::-1].cumsum(axis=1)[:, ::-1] / 3.0
    advantage = rest.reshape(ROWS, -1) - value
    if omega is None:
        omega = np.minimum(np.exp(advantage / spec.agent.advantage_temperature), 20)
    logits, others = np.split(outputs, [MODEL.components], axis=-1)
    mean, log_std = np.split(others.reshape(*logits.shape, -1), 2, axis=-1)
    std = np.exp(np.clip(log_std, MODEL.log_std_min, 1.0))
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    z = (tokens.action[:, acts][..., None, :] - mean) / std
    density = (np.exp(-0.5 * z**2) / (std * np.sqrt(2 * np.pi))).prod(axis=-1)
    action_loss = -np.log((share * density).sum(axis=-1))
    learned = tokens.weight[:, acts]
    expectile = np.where(advantage < 0, 1 - spec.agent.expectile, spec.agent.expectile)
    value_loss = (expectile * advantage**2).mean()
    loss = (learned * omega * action_loss).sum() / learned.sum()
    return (
        loss + spec.agent.value_weight * value_loss,
        (learned * action_loss).sum() / learned.sum(),
        value_loss,
        omega,
    )


ON_A_RING = {"scan_layers": True, "remat": "block", "tokens": "separate"}


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ({"attention": "dense"}, {}),
        ({}, {"ring": 2, "accumulate": 2}),
        (ON_A_RING, {"ring": 4, "fsdp": True}),
        ({"tokens": "separate", "layout": "contiguous"}, {"ring": 2}),
    ],
)
def test_loss_and_gradient_are_those_of_the_formulas(model, where):
    spec = describe(dataclasses.replace(MODEL, **model))
    params, gradients, metrics = step_of(spec, **where)
    if spec.model.scan_layers:
        params, gradients = unrolled(params), unrolled(gradients)
    params, gradients = flat(params), flat(gradients)
    loss, action_loss, value_loss, omega = losses(params, spec)
    assert omega.max() / omega.min() > 2  # weights that differ
    # An error of a value is divided by the temperature, in the exponent of the weight.
    steep = omega.max() * (1 + 1 / spec.agent.advantage_temperature)
    operations, size = forward_operations(spec) + ROWS * SLOTS * STEPS, max(1, abs(action_loss))
    assert_close(metrics["action_loss"], action_loss, operations, size)
    assert_close(metrics["value_loss"], value_loss, operations, 1)
    assert_close(metrics["loss"], loss, operations, steep * size + spec.agent.value_weight)
    # Each array's gradient, along one direction of length 1, as a difference quotient.
    data, width = rng(1), 1e-6
    whole = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    allowed = 2 * rounding(gradient_operations(spec, ROWS)) * steep * whole
    assert_within(metrics["gradient_norm"], whole, allowed)
    for name, gradient in gradients.items():
        direction = data.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        ahead, behind = (
            losses(params | {name: params[name] + sign * width * direction}, spec, omega)[0]
            for sign in (1, -1)
        )
        slope = (ahead - behind) / (2 * width)
        assert_within((gradient * direction).sum(), slope, allowed)


def test_without_weights_and_value_training_is_that_of_imitation_alone():
    """At a high temperature all actions weigh 1, and a value that weighs nothing pulls at nothing.

    All other parameters begin as they do without a value.
    """
    off = dataclasses.replace(AGENT, weighting="none")
    idle = dataclasses.replace(AGENT, advantage_temperature=1e9, value_weight=0.0)
    before, gradients, metrics = step_of(describe(agent=off))
    with_value, others, found = step_of(describe(agent=idle))
    params, with_value = flat(before), flat(with_value)
    gradients, others = flat(gradients), flat(others)
    new = {"value_head.kernel", "value_head.bias"}
    assert with_value.keys() == params.keys() | new and not any(others[name].any() for name in new)
    # Another program, which may sum in another order.
    operations = gradient_operations(describe(), ROWS)
    size = max(1, abs(metrics["loss"]))
    assert_close(found["loss"], metrics["loss"], operations, size)
    whole = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    for name in params:
        np.testing.assert_array_equal(with_value[name], params[name])
        assert_within(others[name], gradients[name], 2 * rounding(operations) * whole)


def test_an_agent_acts_the_same_with_a_value_head():
    actions = []
    for weighting in ("none", "advantage"):
        spec = describe(agent=dataclasses.replace(AGENT, weighting=weighting))
        agent = TransformerAgent(*nnx.split(spec.build(SEED), nnx.Param), spec)
        observation = rng(2).normal(size=(3, OBSERVATION))
        context = agent.new_context(3, trajectories=1)
        actions.append(
            agent.act(context, np.zeros(3), observation, 0, jax.random.key(0), 1.0, 1.0)[0]
        )
    np.testing.assert_array_equal(*actions)
