"""Agents that are told the task's parameters see them, and those that learn in context do not."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from agentic_transformer.agents.actor import ActorAgent
from agentic_transformer.config import AgentConfig, EvalConfig, ModelConfig, TD3BCConfig
from agentic_transformer.contexts.chain_tokens import encode_chains
from agentic_transformer.contexts.chains import Chains
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.transitions import TransitionLoader
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.models.actor_critic import Shape, init_networks
from envs import task, training_tasks
from envs.registry import parameters
from tests.seeds import SEED, rng
from tests.small_agents import TASK, describe, labelled, untrained_agent
from tests.tolerances import assert_close

BC = AgentConfig(
    name="bc_told",
    trajectories=1,
    selection="uniform",
    return_conditioning="none",
    loss="all",
    told=True,
    top=0.1,
)
TD3_BC = replace(BC, name="td3_bc_told", learner="td3_bc")
SMALL = ModelConfig(width=16, layers=1, head="mse")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def goals():
    return training_tasks(TASK, 3, rng(0))


@pytest.fixture(scope="module")
def told(plain, goals):
    return RelabelledDataset(plain.store, goals, "exorl", told=True)


def spec_of(data, agent):
    described = describe(data, agent, SMALL)
    config = TD3BCConfig(width=8, batch=16)
    return replace(described, observation_size=data.observation_size, td3_bc=config)


def make_agent(spec):
    if spec.agent.learner == "transformer":
        return untrained_agent(spec)
    return ActorAgent(*init_networks(Shape.of(spec), SEED), spec)


def test_parameters_stand_behind_the_observations(plain, told, goals):
    index, episodes = np.array([0, 2, 1]), np.array([5, 5, 6])
    seen, reward = told.load(index, episodes)
    hidden, same = plain.load(index, episodes)
    np.testing.assert_array_equal(seen.observation[..., :-2], hidden.observation)
    for row, goal in zip(seen.observation, index, strict=True):
        np.testing.assert_array_equal(
            row[:, -2:] - np.float32(goals[goal].params["goal"]), np.zeros((len(row), 2))
        )
    np.testing.assert_array_equal(reward, same)
    # Scaled, the parameters of the training tasks span -1 to 1: by their middle, half of their
    # range, a subtraction and a division. The middle is rounded at the size of the parameters,
    # which counts for more the closer they lie together.
    parameters = seen.observation[..., -2:]
    scaled = told.normalizer(1.0).normalize(seen.observation)[..., -2:]
    size = 1 + 2 * np.abs(parameters).max(axis=(0, 1)) / np.ptp(parameters, axis=(0, 1))
    assert_close(scaled.min(axis=(0, 1)), -np.ones(2), 4, size)
    assert_close(scaled.max(axis=(0, 1)), np.ones(2), 4, size)


def test_tokens_show_the_parameters_to_told_agents_alone(plain, told):
    """The same trajectory under two tasks, its rewards made equal."""

    def features(data, agent, index):
        one = np.zeros((1, 1), np.int32)
        trajectories, reward = data.load(np.array([index]), np.array([4]))
        chains = Chains(one + index, one + 4, one, one.astype(float), one + 1.0)
        return encode_chains(spec_of(data, agent).layout(), chains, trajectories, 0 * reward)

    in_context = AgentConfig(trajectories=4)
    for first, second in zip(
        features(plain, in_context, 0), features(plain, in_context, 1), strict=True
    ):
        np.testing.assert_array_equal(first, second)
    assert (features(told, BC, 0).features != features(told, BC, 1).features).any(axis=1).sum() == 2


def test_transitions_carry_the_parameters_that_their_rewards_belong_to(told):
    spec = spec_of(told, TD3_BC)
    batch = TransitionLoader(told, spec.layout(), 16, seed=SEED)(0)
    every = np.arange(told.store.episodes)
    scaled = []  # (episodes, T + 1, O + 2) of each task
    for index in range(3):
        task = np.full(len(every), index)
        last = told.tell(told.store.last_observation(every), task)[:, None]
        rows = np.concatenate([told.load(task, every)[0].observation, last], axis=1)
        scaled.append(spec.normalizer.normalize(rows))
    for observation, reward, following in zip(
        batch.observation, batch.reward, batch.next_observation, strict=True
    ):
        distance = np.abs(np.stack(scaled)[:, :, :-1] - observation).max(axis=-1)
        index, episode, step = np.unravel_index(distance.argmin(), distance.shape)
        assert_close(observation, scaled[index][episode, step], 3)
        assert_close(following, scaled[index][episode, step + 1], 3)
        paid = told.load(np.array([index]), np.array([episode]))[1][0, step]
        assert_close(reward, spec.normalizer.reward_scale * paid, 2)


@pytest.mark.slow
@pytest.mark.parametrize("config", [BC, TD3_BC], ids=lambda config: config.name)
def test_told_agents_act_on_the_parameters_of_the_task_that_they_are_evaluated_on(told, config):
    agent = make_agent(spec_of(told, config))
    tasks = evaluation_tasks(TASK, EvalConfig(tasks=3), 0)
    evaluation = Evaluation(agent, tasks, EvalConfig(trajectories=[1, 2], tasks=3))
    assert evaluation.conditions() == [config.name]
    for attempt in evaluation.attempts(config.name):
        assert set(evaluation.records(config.name, attempt)["condition"]) == {config.name}
        shown = attempt.trajectory.observation[..., -2:]
        np.testing.assert_array_equal(
            shown, np.broadcast_to(parameters(tasks)[:, None], shown.shape).astype(np.float32)
        )
    # The same state, and another goal: another action.
    state = np.zeros((2, agent.spec.observation_size))
    state[1, -2:] = 0.15
    context, key = agent.new_context(2, 1), jax.random.key(0)
    action, _ = agent.act(context, np.zeros(2), state, 0, key, 0.0, 0.0)
    assert np.abs(action[0] - action[1]).max() > 1e-3 * np.abs(action).max()


@pytest.mark.parametrize("name", ["walker_walk", "walker_any"])
def test_tasks_without_parameters_cannot_be_told(name):
    with pytest.raises(ValueError, match=f"task '{name}' has no parameters"):
        parameters([task(name)])
