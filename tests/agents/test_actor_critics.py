"""What TD3+BC, IQL, CQL and CRR share: their settings, checkpoints, and their evaluation."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from agentic_transformer.agents.actor import ActorAgent
from agentic_transformer.agents.load import load
from agentic_transformer.config import (
    AgentConfig,
    CQLConfig,
    CRRConfig,
    EvalConfig,
    IQLConfig,
    TD3BCConfig,
    TrainCommand,
)
from agentic_transformer.contexts.transitions import TransitionLoader
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.learners import training_class
from agentic_transformer.models.actor_critic import Shape, init_networks
from agentic_transformer.training.actor_critic import init_actor_critic_state
from agentic_transformer.training.checkpoint import Checkpoints
from agentic_transformer.training.cql import make_cql_step
from agentic_transformer.training.crr import make_crr_step
from agentic_transformer.training.iql import make_iql_step
from agentic_transformer.training.td3_bc import make_td3_bc_step
from tests.perceptron_float64 import perceptron
from tests.seeds import SEED, rng
from tests.small_agents import TASK, describe, labelled
from tests.tolerances import assert_close

pytestmark = pytest.mark.slow

SMALL = {"width": 8, "layers": 2, "batch": 16, "learning_rate": 1e-2, "tau": 0.1}
CONFIGS = {
    "td3_bc": TD3BCConfig(**SMALL),
    "iql": IQLConfig(**SMALL),
    "cql": CQLConfig(**SMALL, samples=2),
    "crr": CRRConfig(**SMALL, samples=2),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture
def spec(data, name):
    agent = AgentConfig(name=name, learner=name, trajectories=1, reward_scale=1.0)
    return replace(describe(data, agent), **{name: CONFIGS[name]})


@pytest.fixture
def loader(data, spec):
    return TransitionLoader(data, spec.layout(), SMALL["batch"], seed=SEED)


def make_step(name, graphs, seed=SEED):
    if name == "iql":  # which draws nothing
        return make_iql_step(graphs, CONFIGS[name])
    drawing = {"td3_bc": make_td3_bc_step, "cql": make_cql_step, "crr": make_crr_step}
    return drawing[name](graphs, CONFIGS[name], seed)


def fresh(spec, name):
    graphs, params = init_networks(Shape.of(spec), SEED)
    return graphs, init_actor_critic_state(params, CONFIGS[name])


def test_the_learner_takes_its_settings(data, spec, name):
    seed, config = SEED + 3, CONFIGS[name]
    command = TrainCommand(seed=seed, agent=spec.agent, **{name: config})
    learner = training_class(name)(command, data, spec)
    assert learner.learning_rate(7) == config.learning_rate and learner.tokens_per_batch == 0
    graphs, params = init_networks(Shape.of(spec), seed)
    state, expected = learner.init_state(), init_actor_critic_state(params, config)
    step = make_step(name, graphs, seed=seed)
    batches = TransitionLoader(data, spec.layout(), config.batch, seed)
    for number in range(2):
        state, _ = learner.train_step(state, learner.make_batch(number))
        expected, _ = step(expected, batches(number))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_a_saved_agent_acts_as_it_did_and_resumes_bit_for_bit(spec, name, loader, tmp_path):
    graphs, state = fresh(spec, name)
    step = make_step(name, graphs)
    for number in range(3):
        state, _ = step(state, loader(number))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, spec.to_dict(), loss=1.0)
    checkpoints.close()
    observation = rng(0).normal(size=(3, spec.observation_size))
    agent = load(tmp_path)
    assert isinstance(agent, ActorAgent) and agent.spec == spec
    action, context = agent.act(
        agent.new_context(3, 1), np.zeros(3), observation, 0, jax.random.key(0), 1.0, 1.0
    )
    standardised = (observation - spec.normalizer.observation_mean) / np.array(
        spec.normalizer.observation_std
    )
    layers = nnx.merge(graphs.actor, state.params["actor"]).layers
    mean = perceptron(layers, standardised)[:, : spec.action_size]  # of CQL: the Gaussian's
    operations = spec.observation_size + 2 * SMALL["width"] + 6
    size = max(1, np.abs(standardised).max())
    if name == "crr":
        # Its two layers are normalized: two sums over the width, a root and six operations more for
        # each. They make errors larger by the ratio of the numbers' size to their deviation, up to
        # 4.
        operations += 2 * (2 * SMALL["width"] + 7)
        size *= 4**2
    assert_close(action, np.tanh(mean), operations, size)
    assert context.encoded == 1
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.state(3, fresh(spec, name)[1], spec.to_dict())
    checkpoints.close()
    jax.tree.map(
        np.testing.assert_array_equal, step(restored, loader(3))[0], step(state, loader(3))[0]
    )


def test_it_is_evaluated_without_a_context_under_its_own_name(spec, name):
    graphs, state = fresh(spec, name)
    config = EvalConfig(trajectories=[1, 2], tasks=3)
    evaluation = Evaluation(
        ActorAgent(graphs, state.params, spec), evaluation_tasks(TASK, config, 0), config
    )
    assert evaluation.conditions() == [name]
    for attempt in evaluation.attempts(name):
        records = evaluation.records(name, attempt)
        assert set(records["condition"]) == {name} and set(records["context_steps"]) == {0}
        assert set(records["encoded_tokens"]) == {spec.steps}
