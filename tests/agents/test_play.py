"""`Agent.play` is an evaluation's condition "own", return for return."""

from dataclasses import replace

import numpy as np
import pytest
import yaml

import agentic_transformer
import envs
from agentic_transformer.agents.load import read_acting
from agentic_transformer.config import EvalConfig
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.errors import UserError
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.find_run import committed_agents
from tests.seeds import SEED
from tests.small_agents import TASK, describe, labelled, untrained_agent

pytestmark = pytest.mark.slow

ATTEMPTS = 3
CONFIG = EvalConfig(trajectories=[1, ATTEMPTS], tasks=4, seed=7, temperature=0.7, noise=0.3)
DRAWN = {"seed": 7, "temperature": 0.7, "noise": 0.3}


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    return untrained_agent(describe(labelled(tmp_path_factory.mktemp("data"), episodes=8)))


def evaluated(agent, tasks, config=CONFIG):
    """The returns of an evaluation, (attempts, tasks)."""
    evaluation = Evaluation(agent, tasks, config)
    records = [evaluation.records("own", attempt) for attempt in evaluation.attempts("own")]
    return np.stack([table["return"].to_numpy() for table in records])


def test_play_earns_what_an_evaluation_records(agent):
    tasks = evaluation_tasks(TASK, CONFIG, SEED)
    played = agent.play(envs.make_vec(tasks), ATTEMPTS, **DRAWN)
    np.testing.assert_array_equal([one.returns for one in played], evaluated(agent, tasks))
    assert [one.number for one in played] == [1, 2, 3]
    steps = agent.spec.steps
    assert played[0].observations.shape == (4, steps, agent.spec.observation_size)
    assert played[0].actions.shape == (4, steps, 2) and played[0].rewards.shape == (4, steps)


@pytest.mark.parametrize("window", [1, 2, ATTEMPTS])
def test_play_forgets_as_the_runs_evaluation_does(window, agent, monkeypatch):
    """A context that holds no more attempts than are played; a longer window forgets nothing."""
    config = replace(CONFIG, window=window)
    monkeypatch.setattr(agent, "acting", config)
    tasks = evaluation_tasks(TASK, config, SEED)
    played = agent.play(envs.make_vec(tasks), ATTEMPTS)
    found = [one.returns for one in played]
    np.testing.assert_array_equal(found, evaluated(agent, tasks, config))
    assert (found == evaluated(agent, tasks)).all() == (window == ATTEMPTS)
    monkeypatch.setattr(agent, "acting", replace(config, window=ATTEMPTS + 1))
    longer = [one.returns for one in agent.play(envs.make_vec(tasks), ATTEMPTS)]
    np.testing.assert_array_equal(longer, evaluated(agent, tasks))


def test_play_acts_as_the_run_was_evaluated_unless_it_is_told_otherwise(agent, monkeypatch):
    """To be told 0 counts, too."""
    monkeypatch.setattr(agent, "acting", CONFIG)
    tasks = evaluation_tasks(TASK, CONFIG, SEED)
    played = agent.play(envs.make_vec(tasks), ATTEMPTS)
    np.testing.assert_array_equal([one.returns for one in played], evaluated(agent, tasks))
    zeros = {"seed": 0, "target": 0.0, "temperature": 0.0, "noise": 0.0}
    played = agent.play(envs.make_vec(tasks), ATTEMPTS, **zeros)
    expected = evaluated(agent, tasks, replace(CONFIG, **zeros))
    np.testing.assert_array_equal([one.returns for one in played], expected)
    assert (played[0].trajectory.target == 0).all()


def test_a_run_says_how_it_was_evaluated(tmp_path):
    assert read_acting(tmp_path) == EvalConfig()
    asked = "seed: 3, target: 0.5, temperature: 0.0, noise: 0.25, tasks: 9"
    expected = EvalConfig(seed=3, target=0.5, temperature=0.0, noise=0.25)

    def write(asked):
        (tmp_path / "config.yaml").write_text(f"eval: {{{asked}}}\nmesh: {{coordinator: null}}\n")

    for window, said in ((None, ""), (None, ", window: null"), (4, ", window: 4")):
        write(asked + said)
        assert read_acting(tmp_path) == replace(expected, window=window)
    for said in ("noise: true", "noise: null", "window: 0", "window: 1.5", "seed: -1"):
        write(said)
        wrong = said.replace(": ", "=")
        with pytest.raises(UserError, match=rf"config.yaml: eval\.{wrong}\n  allowed: "):
            read_acting(tmp_path)


def test_a_loaded_agent_acts_as_its_run_was_evaluated():
    loaded = {name: agentic_transformer.load(name).acting for name in committed_agents()}
    settings = {
        name: yaml.safe_load((folder / "config.yaml").read_text())["eval"]
        for name, folder in committed_agents().items()
    }
    names = ("seed", "target", "temperature", "noise", "window")
    assert {
        (name, key): getattr(acting, key) for name, acting in loaded.items() for key in names
    } == {(name, key): values.get(key) for name, values in settings.items() for key in names}
    assert any(acting != EvalConfig() for acting in loaded.values())


def test_an_agent_that_is_told_its_task_does_not_play(agent, monkeypatch):
    told = replace(agent.spec, agent=replace(agent.spec.agent, told=True))
    monkeypatch.setattr(agent, "spec", told)
    with pytest.raises(ValueError, match="told the parameters of its task, which no environment"):
        agent.play(envs.make_vec(TASK, 2), 2)


def test_play_holds_actions_as_in_training(agent, monkeypatch):
    """An environment of single steps is stepped as one that holds actions itself."""
    monkeypatch.setattr(agent, "spec", describe_held(agent.spec))
    tasks = evaluation_tasks(TASK, CONFIG, SEED)
    played = agent.play(envs.make_vec(tasks), ATTEMPTS, **DRAWN)
    np.testing.assert_array_equal([one.returns for one in played], evaluated(agent, tasks))


def describe_held(spec):
    """The spec of an agent that holds actions for two steps."""
    values = spec.to_dict() | {"action_repeat": 2, "steps": spec.steps // 2}
    return type(spec).from_dict(values)


def test_each_environment_keeps_its_hidden_task(agent, monkeypatch):
    """A reset without options would draw others."""
    for env, tasks_of in (
        (envs.make_vec(TASK, num_envs=2), lambda env: env.tasks),
        (envs.make(TASK), lambda env: [env.task]),
    ):
        reset, seen = env.reset, []

        def noted(*, env=env, tasks_of=tasks_of, reset=reset, seen=seen, **given):
            result = reset(**given)
            seen.append([task.id for task in tasks_of(env)])
            return result

        monkeypatch.setattr(env, "reset", noted)
        played = agent.play(env, 2)
        assert seen == seen[:1] * 2 and len(set(seen[0])) == len(seen[0])
        assert [one.returns.shape for one in played] == [(len(seen[0]),)] * 2


def test_a_single_environment_is_a_batch_of_one(agent):
    task = envs.task(TASK, goal=(0.1, 0.1))
    alone = agent.play(envs.make(task), 2, seed=3)
    vector = agent.play(envs.make_vec([task]), 2, seed=3)
    for one, other in zip(alone, vector, strict=True):
        np.testing.assert_array_equal(one.rewards, other.rewards)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (lambda: envs.make("walker_walk"), "observations have 24 numbers, those of the agent 4"),
        (lambda: envs.make_vec(TASK, 2, horizon=5), "horizon=5 does not fit an agent"),
        (lambda: envs.make_vec(TASK, 2, action_repeat=2), "allowed: envs.make_vec without both"),
    ],
)
def test_environments_that_do_not_fit_are_refused(agent, env, words):
    with pytest.raises(ValueError, match=words):
        agent.play(env(), 2)


def test_fewer_than_one_attempt_is_refused(agent):
    with pytest.raises(ValueError, match="attempts=0 must be"):
        agent.play(envs.make(TASK), 0)


def test_an_unknown_agent_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"(?s)no folder and no agent.*cheetah_speed.*: maze"):
        agentic_transformer.load("mase")


def test_a_single_environment_of_gymnasium_is_played_too(agent):
    """It has one task, so that its `reset` is given no tasks."""
    task, spec = "gymnasium:Pendulum-v1", agent.spec
    scales = Normalizer((0.0,) * 3, (1.0,) * 3, return_scale=1.0, reward_scale=1.0)
    sizes = {"observation_size": 3, "action_size": 1, "steps": 5}
    pendulum = untrained_agent(replace(spec, task=task, normalizer=scales, **sizes))
    alone = pendulum.play(envs.make(task), 2, seed=3)
    vector = pendulum.play(envs.make_vec(task, 1), 2, seed=3)
    for one, other in zip(alone, vector, strict=True):
        np.testing.assert_array_equal(one.rewards, other.rewards)
