"""Acting with a cache against the uncached forward pass over the whole context."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from agentic_transformer.agents.base import Trajectory
from agentic_transformer.agents.programs import pack_tokens
from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import AgentConfig, ModelConfig
from agentic_transformer.contexts.chain_tokens import encode_chains
from agentic_transformer.contexts.chains import Chains
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.models.heads import draw_action
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.models.transformer import AgenticTransformer
from agentic_transformer.ring import attention
from datasets import Trajectories
from tests.seeds import SEED, rng
from tests.small_agents import forward_operations, kept_operations
from tests.tolerances import assert_close, unit

pytestmark = pytest.mark.slow

BATCH, SLOTS, STEPS, OBSERVATION, ACTION = 3, 4, 5, 4, 2


LAYOUTS = pytest.mark.parametrize("tokens", ["packed", "separate"])


def make_agent(heads=2, return_conditioning="return", **model):
    config = ModelConfig(width=32, layers=2, heads=heads, **model)
    spec = AgentSpec(
        task="point_mass_goal", seed=0, model=config,
        agent=AgentConfig(trajectories=SLOTS, return_conditioning=return_conditioning),
        normalizer=Normalizer((0.1,) * OBSERVATION, (2.0,) * OBSERVATION, 8.0, 2.0),
        observation_size=OBSERVATION, action_size=ACTION, steps=STEPS, best_return=4.0,
    )  # fmt: skip
    transformer = AgenticTransformer(
        config, spec.layout().feature_size, ACTION, STEPS, nnx.Rngs(SEED)
    )
    return TransformerAgent(*nnx.split(transformer, nnx.Param), spec), transformer


def make_chain():
    data = rng(0)
    observation = data.normal(size=(BATCH * SLOTS, STEPS, OBSERVATION)).astype(np.float32)
    action = data.uniform(-1, 1, (BATCH * SLOTS, STEPS, ACTION)).astype(np.float32)
    reward = data.uniform(0, 1, (BATCH * SLOTS, STEPS)).astype(np.float32)
    slots = np.zeros((BATCH, SLOTS), np.int32)
    target = reward.sum(axis=1).reshape(BATCH, SLOTS) * np.array(
        [1.0, 2.0, 1.0, 2.0]
    )  # two reach their target, two do not
    chains = Chains(
        slots, np.arange(BATCH * SLOTS).reshape(BATCH, SLOTS), slots, target, slots + 1.0
    )
    return chains, Trajectories(observation, action), reward


def trajectory(chain, slot):
    chains, trajectories, reward = chain
    rows = np.arange(BATCH) * SLOTS + slot
    return Trajectory(
        trajectories.observation[rows],
        trajectories.action[rows],
        reward[rows],
        chains.target[:, slot],
    )


def uncached(transformer, spec, chain):
    """Outputs at all tokens, and keys and values of all layers."""
    tokens = encode_chains(spec.layout(), *chain)
    cache = []

    def attend(_, query, key, value):
        cache.append((key, value))
        return attention(query, key, value, backbone="dense")

    return np.asarray(
        transformer(jnp.asarray(tokens.features), jnp.asarray(tokens.timestep), attend)
    ), cache


def uncached_outputs(transformer, spec, chain):
    """Outputs at the decisions of all steps, (BATCH, SLOTS * STEPS, ...)."""
    layout = spec.layout()
    return uncached(transformer, spec, chain)[0][:, layout.action_token :: layout.tokens_per_step]


@pytest.mark.parametrize("heads", [1, 2])
@LAYOUTS
def test_cached_acting_equals_the_uncached_forward_pass_at_every_position(heads, tokens):
    agent, transformer = make_agent(
        heads, head="mse", tokens=tokens
    )  # its actions are its outputs, clipped to [-1, 1]
    chain = make_chain()
    outputs = uncached_outputs(transformer, agent.spec, chain)
    expected, size, operations = (
        np.clip(outputs, -1, 1),
        np.abs(outputs).max(),
        forward_operations(agent.spec),
    )
    context = agent.new_context(BATCH, SLOTS)
    for slot in range(SLOTS):
        done = trajectory(chain, slot)
        to_go = done.target.copy()
        for step in range(STEPS):
            action, context = agent.act(
                context, to_go, done.observation[:, step], step, jax.random.key(0), 1.0, 1.0
            )
            assert_close(action, expected[:, slot * STEPS + step], operations, size)
            last = step == STEPS - 1
            ended = (
                agent.layout.completion(done.target, done.reward)[:, -1]
                if last
                else np.zeros(BATCH)
            )
            context = context.observe(
                PreviousStep(done.action[:, step], done.reward[:, step], ended)
            )
            to_go = to_go - done.reward[:, step]
    # How the last step ended has been seen by nothing yet: tokens of their own for that are still
    # to be encoded.
    assert (
        context.position
        == context.encoded
        == SLOTS * STEPS * agent.layout.tokens_per_step - {"packed": 0, "separate": 2}[tokens]
    )
    for found, whole in zip(
        context.cache, uncached(transformer, agent.spec, chain)[1], strict=True
    ):
        for cached, computed in zip(found, whole, strict=True):
            assert_close(cached[:, : context.position], computed[:, : context.position], operations)


@LAYOUTS
def test_acting_behind_encoded_trajectories_equals_the_uncached_forward_pass(tokens):
    """A trajectory that is encoded at once counts like one that was acted.

    Prompts are encoded at once, and trajectories whose targets are rewritten.
    """
    agent, transformer = make_agent(head="mse", tokens=tokens)
    chain = make_chain()
    outputs = uncached_outputs(transformer, agent.spec, chain)
    expected, size, operations = (
        np.clip(outputs, -1, 1),
        np.abs(outputs).max(),
        forward_operations(agent.spec),
    )
    context = agent.new_context(BATCH, SLOTS)
    for slot in range(SLOTS - 1):
        context = agent.append(context, trajectory(chain, slot))
    last = trajectory(chain, SLOTS - 1)
    to_go = last.target.copy()
    for step in range(STEPS):
        action, context = agent.act(
            context, to_go, last.observation[:, step], step, jax.random.key(0), 1.0, 1.0
        )
        assert_close(action, expected[:, (SLOTS - 1) * STEPS + step], operations, size)
        context = context.observe(
            PreviousStep(last.action[:, step], last.reward[:, step], np.zeros(BATCH))
        )
        to_go = to_go - last.reward[:, step]


@LAYOUTS
def test_trajectories_encoded_in_parts_are_those_encoded_at_once(tokens, monkeypatch):
    """The scores of all its tokens would take too much memory. The last part is shorter."""
    agent, _ = make_agent(tokens=tokens)
    chain = make_chain()
    whole, parts = agent.new_context(BATCH, SLOTS), agent.new_context(BATCH, SLOTS)
    capacity, heads = whole.cache[0][0].shape[1:3]
    for slot in range(SLOTS - 1):
        whole = agent.append(whole, trajectory(chain, slot))
    monkeypatch.setattr("agentic_transformer.agents.cache._MAX_SCORES", 2 * heads * capacity)
    encoded = []
    monkeypatch.setattr(
        "agentic_transformer.agents.transformer.pack_tokens",
        lambda features, *rest: encoded.append(features) or pack_tokens(features, *rest),
    )
    for slot in range(SLOTS - 1):
        parts = agent.append(parts, trajectory(chain, slot))
    assert max(part.shape[1] for part in encoded) == 2
    jax.tree.map(
        lambda a, b: assert_close(a, b, forward_operations(agent.spec)),
        parts.cache,
        whole.cache,
    )
    jax.tree.map(np.testing.assert_array_equal, parts.previous, whole.previous)
    assert (parts.position, parts.encoded) == (whole.position, whole.encoded)


def test_acting_in_bfloat16_is_near_to_float32():
    chain, first = make_chain(), (SLOTS - 1) * STEPS
    exact = uncached_outputs(make_agent(head="mse")[1], make_agent()[0].spec, chain)[:, first]
    agent, _ = make_agent(head="mse", dtype="bfloat16")
    context = agent.new_context(BATCH, SLOTS)
    for slot in range(SLOTS - 1):
        context = agent.append(context, trajectory(chain, slot))
    last = trajectory(chain, SLOTS - 1)
    action, _ = agent.act(
        context, last.target, last.observation[:, 0], 0, jax.random.key(0), 1.0, 1.0
    )
    assert_close(
        action,
        np.clip(exact, -1, 1),
        kept_operations(agent.spec.model),
        np.abs(exact).max(),
        ml_dtypes.bfloat16,
    )
    assert np.abs(action - np.clip(exact, -1, 1)).max() > 0


@LAYOUTS
def test_rewriting_a_trajectory_leaves_the_cache_as_if_it_had_always_been_so(tokens):
    agent, _ = make_agent(tokens=tokens)
    chain = make_chain()
    context = agent.append(agent.new_context(BATCH, 2), trajectory(chain, 0))
    direct = agent.append(context.copy(), trajectory(chain, 1))
    before = context
    acted = agent.append(context.copy(), trajectory(chain, 1)._replace(target=np.full(BATCH, 9.0)))
    rewritten = agent.append(acted.rewind(before), trajectory(chain, 1))
    jax.tree.map(np.testing.assert_array_equal, rewritten.cache, direct.cache)
    jax.tree.map(np.testing.assert_array_equal, rewritten.previous, direct.previous)
    per_trajectory = STEPS * agent.layout.tokens_per_step
    pending = {"packed": 0, "separate": 2}[tokens]
    assert (rewritten.position, rewritten.encoded) == (
        2 * per_trajectory - pending,
        3 * per_trajectory - pending,
    )


def test_a_copied_context_goes_its_own_way():
    agent, _ = make_agent()
    chain = make_chain()
    context = agent.append(agent.new_context(BATCH, 2), trajectory(chain, 0))
    keys = np.array(context.cache[0][0])
    agent.append(context.copy(), trajectory(chain, 1))
    np.testing.assert_array_equal(context.cache[0][0], keys)


def test_a_full_context_is_refused():
    agent, _ = make_agent()
    chain = make_chain()
    context = agent.append(agent.new_context(BATCH, 1), trajectory(chain, 0))
    with pytest.raises(ValueError, match="made for 5 tokens holds 5"):
        agent.append(context, trajectory(chain, 1))


@pytest.mark.parametrize(
    ("tokens", "what", "later"),  # the first token that carries it, counted from its step's first
    [("packed", "observation", 0), ("packed", "action", 1), ("packed", "reward", 1)]
    + [("separate", "observation", 1), ("separate", "action", 2), ("separate", "reward", 3)],
)
def test_no_leak_from_a_step_to_outputs_before_it(tokens, what, later):
    agent, transformer = make_agent(tokens=tokens)
    chain = make_chain()
    before, _ = uncached(transformer, agent.spec, chain)
    changed = SLOTS * STEPS // 2 + 2
    chains, trajectories, reward = make_chain()
    arrays = {
        "observation": trajectories.observation,
        "action": trajectories.action,
        "reward": reward,
    }
    # One step of every row.
    for row in range(BATCH):
        arrays[what][row * SLOTS + changed // STEPS, changed % STEPS] += 0.25
    after, _ = uncached(transformer, agent.spec, (chains, trajectories, reward))
    first = changed * agent.layout.tokens_per_step + later
    np.testing.assert_array_equal(after[:, :first], before[:, :first])
    assert np.abs(after[:, first] - before[:, first]).min() > 0


@LAYOUTS
def test_without_condition_nothing_of_the_target_is_seen_in_training_or_acting(tokens):
    agent, transformer = make_agent(head="mse", return_conditioning="none", tokens=tokens)
    chains, *rest = make_chain()
    expected = uncached_outputs(transformer, agent.spec, (chains, *rest))
    other = chains._replace(target=chains.target * 3)
    np.testing.assert_array_equal(
        uncached_outputs(transformer, agent.spec, (other, *rest)), expected
    )
    assert not encode_chains(agent.layout, chains, *rest).features[..., 0].any()
    first = trajectory((other, *rest), 0)
    context = agent.append(agent.new_context(BATCH, 2), first)
    second = trajectory((chains, *rest), 1)
    action, _ = agent.act(
        context, np.full(BATCH, 1e3), second.observation[:, 0], 0, jax.random.key(0), 1.0, 1.0
    )
    size, operations = np.abs(expected).max(), forward_operations(agent.spec)
    assert_close(action, np.clip(expected[:, STEPS], -1, 1), operations, size)


def test_agents_of_one_structure_are_compiled_once():
    """Or a process that evaluates many agents would keep, and wait for, a program for each."""
    key, target, observation = jax.random.key(0), np.ones(BATCH), np.zeros((BATCH, OBSERVATION))
    compiled = []
    for _ in range(3):
        agent, _ = make_agent()
        agent.act(
            agent.new_context(BATCH, 1), target, observation, 0, key, temperature=1.0, noise=1.0
        )
        compiled.append(agent._programs.act._cache_size())
    assert compiled[0] == compiled[1] == compiled[2]


def test_temperature_zero_and_no_noise_take_the_likeliest_mean():
    agent, transformer = make_agent()
    chain = make_chain()
    outputs = uncached_outputs(transformer, agent.spec, chain)[:, 0]
    k = agent.spec.model.components
    means = np.split(outputs[:, k:].reshape(BATCH, k, -1), 2, axis=-1)[0]
    best = means[np.arange(BATCH), outputs[:, :k].argmax(axis=1)]
    first = trajectory(chain, 0)
    action, _ = agent.act(
        agent.new_context(BATCH, 1),
        first.target,
        first.observation[:, 0],
        0,
        jax.random.key(1),
        0.0,
        0.0,
    )
    assert_close(
        action, np.clip(best, -1, 1), forward_operations(agent.spec), np.abs(outputs).max()
    )


@LAYOUTS
def test_the_draws_of_a_step_are_those_of_its_own_key(tokens):
    """Two trajectories in one context: each step draws anew, with a temperature and a noise."""
    agent, transformer = make_agent(tokens=tokens)
    chain, key, model = make_chain(), jax.random.key(3), agent.spec.model
    outputs = uncached_outputs(transformer, agent.spec, chain)
    context = agent.append(agent.new_context(BATCH, SLOTS), trajectory(chain, 0))
    second = trajectory(chain, 1)
    to_go = second.target.copy()
    operations, drawn = forward_operations(agent.spec), []
    for step in range(STEPS):
        observation = second.observation[:, step]
        action, context = agent.act(context, to_go, observation, step, key, 2.0, 0.25)
        whole = outputs[:, STEPS + step]
        assert_close(context.outputs, whole, operations, np.abs(whole).max())
        of_step = jax.random.fold_in(key, step)
        expected = draw_action(model, context.outputs, of_step, 2.0, 0.25)
        # A mean, and a deviation of at most e times a normal number below 6, each rounded.
        assert_close(action, expected, 8, 1 + 0.25 * np.e * 6)
        drawn.append(action)
        context = context.observe(
            PreviousStep(second.action[:, step], second.reward[:, step], np.zeros(BATCH))
        )
        to_go = to_go - second.reward[:, step]
    assert len(np.unique(np.stack(drawn), axis=0)) == STEPS


def test_packing_of_a_first_step_has_nothing_before_it():
    agent, _ = make_agent()
    nothing = PreviousStep(*(x[:, None] for x in agent.new_context(1, 1).previous))
    features, _ = agent.layout.encode_steps(
        np.full((1, 1), 8.0),
        np.full((1, 1, OBSERVATION), 0.1),
        np.zeros((1, 1), np.int32),
        nothing,
        starts_chain=True,
    )
    np.testing.assert_allclose(
        features[0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 1], rtol=0, atol=2 * unit()
    )  # float32 of 0.1 - 0.1
