"""What the rows of an evaluation mean, checked on real physics with an untrained agent."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest

import envs
from agentic_transformer.agents.actor import ActorAgent
from agentic_transformer.agents.transformer import TransformerAgent
from agentic_transformer.config import (
    AgentConfig,
    EvalConfig,
    EvaluateCommand,
    ModelConfig,
    TD3BCConfig,
    TrainCommand,
)
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.evaluation import rollouts
from agentic_transformer.evaluation.conditions import (
    baseline_condition,
    conditions_of,
    evaluation_tasks,
    other_tasks,
)
from agentic_transformer.evaluation.evaluate import evaluated_task
from agentic_transformer.evaluation.records import REQUIRED
from agentic_transformer.evaluation.rollouts import Evaluation
from agentic_transformer.evaluation.statistics import compare
from agentic_transformer.models.actor_critic import Shape, init_networks
from datasets import ActionRepeatView
from tests.seeds import SEED, rng
from tests.small_agents import TASK, describe, labelled, untrained_agent
from tests.tolerances import TINY, rounding

LONGEST, TASKS, STEPS = 3, 5, 12
CONFIG = EvalConfig(trajectories=[1, LONGEST], tasks=TASKS)
REWARD = 2 * rounding(1)
"""Rewards up to 1 are computed in float64 and kept as float32."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tasks():
    return evaluation_tasks(TASK, CONFIG, seed=SEED)


@pytest.fixture(scope="module")
def evaluation(data, tasks):
    prompts = RelabelledDataset(data.store, tasks, "exorl")
    return Evaluation(untrained_agent(describe(data)), tasks, CONFIG, prompts)


@pytest.fixture(scope="module")
def attempts(evaluation):
    return {
        condition: list(evaluation.attempts(condition)) for condition in evaluation.conditions()
    }


@pytest.mark.slow
def test_every_condition_has_every_attempt_of_every_task(evaluation, attempts):
    assert list(attempts) == ["own", "no_context", "foreign", "dataset"]
    for condition, run in attempts.items():
        assert [attempt.number for attempt in run] == [1, 2, 3]
        for attempt in run:
            records = evaluation.records(condition, attempt)
            assert len(records) == TASKS
            assert set(REQUIRED) <= set(records)
            assert set(records["context_steps"]) == {
                0 if condition == "no_context" else (attempt.number - 1) * STEPS
            }


@pytest.mark.slow
def test_returns_are_raw_sums_of_rewards(evaluation, attempts, tasks):
    attempt = attempts["foreign"][1]
    expected = goal_reward(attempt.physics[:, 1:, :2], tasks).sum(axis=1)
    np.testing.assert_allclose(
        evaluation.records("foreign", attempt)["return"], expected, atol=rounding(STEPS + 1) * STEPS
    )


@pytest.mark.slow
def test_nth_attempts_start_alike_in_every_condition(attempts):
    for number in range(LONGEST):
        starts = [run[number].physics[:, 0] for run in attempts.values()]
        for start in starts[1:]:
            np.testing.assert_array_equal(start, starts[0])
    assert np.abs(attempts["own"][0].physics[:, 0] - attempts["own"][1].physics[:, 0]).max() > 0


def test_records_tell_the_seed_that_decides_where_attempts_start(data, tasks):
    starts, tables = [], []
    for seed, of_agent in ((0, 0), (1, 0), (0, 1)):
        config = replace(CONFIG, trajectories=[1], seed=seed)
        spec = replace(describe(data), seed=of_agent)
        evaluation = Evaluation(untrained_agent(spec), tasks, config)
        (attempt,) = evaluation.attempts("no_context")
        starts.append(attempt.physics[:, 0])
        tables.append(evaluation.records("no_context", attempt))
    for one, other in itertools.combinations(starts, 2):
        assert (one != other).any(axis=1).all()
    seeds = [set(zip(table["seed"], table["eval_seed"], strict=True)) for table in tables]
    assert seeds == [{(0, 0)}, {(0, 1)}, {(1, 0)}]
    tables.pop()
    alone, other = (
        table.assign(condition=c) for table, c in zip(tables, ("own", "dt"), strict=True)
    )
    assert compare(pd.concat([alone, other])).empty
    assert len(compare(pd.concat([alone, other.assign(eval_seed=0)]))) == 1


@pytest.mark.slow
def test_cost_of_encoding_counts_prompts_and_second_encodings(attempts):
    cost = {condition: [attempt.encoded for attempt in run] for condition, run in attempts.items()}
    assert (
        cost["own"] == [2 * STEPS] * 3
    )  # acted once, then encoded again with its own return as the target
    assert cost["no_context"] == cost["foreign"] == [STEPS] * 3
    assert cost["dataset"] == [STEPS, 2 * STEPS, 3 * STEPS]


@pytest.mark.slow
def test_an_agent_that_holds_its_actions_is_evaluated_so(data, tasks, monkeypatch):
    """It has an actor's quick networks, and remembers no token of those that are told."""
    view, held = ActionRepeatView(data.store, 3), STEPS // 3
    spec = describe(data, model=ModelConfig(tokens="separate"))
    spec = replace(spec, action_repeat=3, steps=held, td3_bc=TD3BCConfig(width=8))
    agent = ActorAgent(*init_networks(Shape.of(spec), SEED), spec)
    evaluation = Evaluation(agent, tasks, CONFIG, RelabelledDataset(view, tasks, "exorl"))
    best = [data.store.rewards(task).sum(axis=1, dtype=np.float64).max() for task in tasks]
    twins, rates = envs.make_vec(tasks), []
    monkeypatch.setattr(
        rollouts, "RepeatMissRate", lambda *given: rates.append(FixedRates(*given)) or rates[-1]
    )
    for attempt in evaluation.attempts("own"):
        records, before = evaluation.records("own", attempt), (attempt.number - 1) * held
        told = {
            "episode_steps": STEPS,
            "trained_trajectories": spec.agent.trajectories,
            "context_steps": before,
            "context_tokens": 4 * before,
        }
        assert {name: set(records[name]) for name in told} == {
            name: {number} for name, number in told.items()
        }
        # The sums of three rewards each are rounded to float32.
        np.testing.assert_allclose(records["best_return"], best, rtol=rounding(3))
        start = evaluation._player.stream("starts", attempt.number).integers(2**31)
        _, info = twins.reset(seed=int(start))
        earned = np.zeros(TASKS)
        for step in range(held):
            np.testing.assert_array_equal(attempt.physics[:, step], info["physics"])
            for _ in range(3):
                _, reward, _, _, info = twins.step(attempt.actions[:, step])
                earned += reward
        np.testing.assert_array_equal(attempt.physics[:, -1], info["physics"])
        np.testing.assert_allclose(records["return"], earned, rtol=rounding(STEPS, np.float64))
    assert [rate.given[-1] for rate in rates] == [3]  # steps for which an action is held


class FixedRates:
    """Stands in for the repeat miss rate, and notes what it is given."""

    def __init__(self, *given):
        self.given, self.seen = given, []

    def update(self, physics, reward):
        self.seen.append((physics, reward))
        return np.arange(len(reward)) + len(self.seen) / 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "searches"),
    [("own", True), ("no_context", True), ("dt", True), ("foreign", False), ("dataset", False)],
)
def test_repeat_misses_are_told_of_attempts_that_follow_each_other(
    evaluation, tasks, condition, searches, monkeypatch
):
    made = []
    monkeypatch.setattr(
        rollouts, "RepeatMissRate", lambda *given: made.append(FixedRates(*given)) or made[-1]
    )
    attempts = list(evaluation.attempts(condition))
    rates = np.array([evaluation.records(condition, one)["repeat_miss_rate"] for one in attempts])
    if not searches:
        assert not made and np.isnan(rates).all()
        return
    (rate,) = made
    np.testing.assert_array_equal(rates, np.arange(TASKS) + np.arange(1, LONGEST + 1)[:, None] / 10)
    given, best, action_repeat = rate.given
    assert (given, action_repeat) == (tasks, 1)
    returns = [evaluation.data.store.rewards(task).sum(axis=1, dtype=float) for task in tasks]
    np.testing.assert_array_equal(best, np.max(returns, axis=1))
    for (physics, reward), attempt in zip(rate.seen, attempts, strict=True):
        np.testing.assert_array_equal(physics, attempt.physics)
        np.testing.assert_array_equal(reward, attempt.rewards)


def test_nothing_is_searched_for_where_all_tasks_are_one(data, tasks, monkeypatch):
    monkeypatch.setattr(rollouts, "RepeatMissRate", FixedRates)
    alone = [tasks[0]] * TASKS
    prompts = RelabelledDataset(data.store, alone, "exorl")
    evaluation = Evaluation(untrained_agent(describe(data)), alone, CONFIG, prompts)
    for attempt in evaluation.attempts("no_context"):
        assert evaluation.records("no_context", attempt)["repeat_miss_rate"].isna().all()


def test_an_attempt_is_encoded_again_if_one_row_earned_another_return_than_asked(
    data, tasks, monkeypatch
):
    """The agent acts alike whatever it is asked for, so that a row can earn exactly that."""
    spec = replace(describe(data), td3_bc=TD3BCConfig(width=8))
    agent = ActorAgent(*init_networks(Shape.of(spec), SEED), spec)
    evaluation, remembered = Evaluation(agent, tasks, CONFIG), []
    monkeypatch.setattr(agent, "append", lambda context, one: remembered.append(one) or context)

    def first_attempt():
        attempts = evaluation.attempts("own")
        one = next(attempts)
        attempts.close()
        return one

    earned = first_attempt().returns
    for beyond in (np.zeros(TASKS), np.arange(TASKS)):
        remembered.clear()
        monkeypatch.setattr(evaluation._player, "target", lambda asked=earned + beyond: asked)
        first_attempt()
        assert len(remembered) == beyond.any()
    np.testing.assert_array_equal(remembered[0].target, earned)


@pytest.mark.slow
def test_literal_targets_need_no_second_encoding(data, tasks):
    policy = untrained_agent(describe(data, AgentConfig(trajectories=4, target="chain_max")))
    run = list(Evaluation(policy, tasks, CONFIG).attempts("own"))
    assert [attempt.encoded for attempt in run] == [STEPS] * 3


@pytest.mark.slow
def test_an_evaluation_is_repeatable(evaluation, attempts):
    for first, second in zip(attempts["foreign"], evaluation.attempts("foreign"), strict=True):
        np.testing.assert_array_equal(first.trajectory.action, second.trajectory.action)


class Watched(TransformerAgent):
    """Notes all that it is asked to act on and to remember."""

    def act(self, context, return_to_go, observation, timestep, *rest):
        if timestep == 0:
            self.acted.append([])
        self.acted[-1].append(
            (context.position, return_to_go.copy(), observation, context.previous)
        )
        return super().act(context, return_to_go, observation, timestep, *rest)

    def append(self, context, trajectory):
        self.remembered.append((len(self.acted), context.position, trajectory, context.previous))
        return super().append(context, trajectory)


@pytest.fixture
def watched(data, tasks):
    policy = untrained_agent(describe(data))
    policy.__class__, policy.acted, policy.remembered = Watched, [], []
    return Evaluation(policy, tasks, CONFIG, RelabelledDataset(data.store, tasks, "exorl"))


def goal_reward(position, tasks):
    """Returns rewards (batch, steps) of positions (batch, steps, 2).

    It is dm_control's tolerance with its default sigmoid, written out.
    """
    goals = np.array([task.params["goal"] for task in tasks])[:, None]
    beyond = np.maximum(np.linalg.norm(position - goals, axis=-1) - 0.045, 0) / 0.045
    return 0.1 ** (beyond**2)  # 0.1 at one margin beyond the bound


def check_attempt(evaluation, acted, position, trajectory, past):
    """What was acted on, step by step, against what happened."""
    to_go = np.full(TASKS, 0.95 * evaluation.spec.best_return)
    for step, (at, asked, observation, before) in enumerate(acted):
        assert at == position + step
        np.testing.assert_allclose(
            asked, to_go, rtol=0, atol=2 * rounding(STEPS) * max(STEPS, to_go.max())
        )
        np.testing.assert_array_equal(observation, trajectory.observation[:, step])
        for found, expected in zip(before, past, strict=True):
            np.testing.assert_array_equal(found, expected)
        to_go = to_go - trajectory.reward[:, step]
        past = (trajectory.action[:, step], trajectory.reward[:, step], np.zeros(TASKS))


def nothing():
    return np.zeros((TASKS, 2)), np.zeros(TASKS), np.zeros(TASKS)


def end_of(trajectory):
    """How a remembered trajectory ends: it reached its own return."""
    return trajectory.action[:, -1], trajectory.reward[:, -1], np.ones(TASKS)


def test_own_contexts_hold_the_agents_own_trajectories_with_their_own_returns(watched, tasks):
    attempts = list(watched.attempts("own"))
    past = nothing()
    for number, (attempt, acted) in enumerate(zip(attempts, watched.agent.acted, strict=True)):
        check_attempt(watched, acted, number * STEPS, attempt.trajectory, past)
        np.testing.assert_allclose(
            attempt.trajectory.reward, goal_reward(attempt.physics[:, 1:, :2], tasks), atol=REWARD
        )
        _, position, remembered, before = watched.agent.remembered[number]
        assert position == number * STEPS
        np.testing.assert_array_equal(remembered.reward, attempt.trajectory.reward)
        np.testing.assert_allclose(
            remembered.target,
            attempt.trajectory.reward.sum(axis=1),
            rtol=2 * rounding(STEPS),
            atol=STEPS * TINY,
        )
        for found, expected in zip(before, past, strict=True):
            np.testing.assert_array_equal(found, expected)
        past = end_of(remembered)


class Noted(Watched):
    """Notes how actions are drawn, too."""

    def act(self, context, return_to_go, observation, timestep, key, temperature, noise):
        self.drawn.append((*jax.random.key_data(key).tolist(), temperature, noise))
        given = (context, return_to_go, observation, timestep, key, temperature, noise)
        return super().act(*given)


def noted(data, agent=None):
    policy = untrained_agent(describe(data, agent))
    policy.__class__, policy.acted, policy.remembered, policy.drawn = Noted, [], [], []
    return policy


def test_actions_are_drawn_as_asked_and_by_a_key_of_each_attempt(data, tasks):
    config = replace(CONFIG, temperature=0.25, noise=0.75)
    keys = []
    for condition in ("own", "no_context", "own"):
        evaluation = Evaluation(noted(data), tasks, config)
        list(evaluation.attempts(condition))
        drawn = evaluation.agent.drawn
        assert len(drawn) == LONGEST * STEPS
        assert {tuple(each[-2:]) for each in drawn} == {(0.25, 0.75)}
        keys.append([{each[:-2] for each in drawn[n * STEPS :][:STEPS]} for n in range(LONGEST)])
        assert [len(of_attempt) for of_attempt in keys[-1]] == [1] * LONGEST
    assert keys[0] == keys[2]
    assert len(set.union(*keys[0], *keys[1])) == 2 * LONGEST


@pytest.mark.parametrize(
    ("settings", "target", "reached"),
    [
        ({"return_conditioning": "none"}, 0.95, 1),
        ({"target": "chain_max"}, 0.0, 1),
        ({"target": "chain_max"}, 1e3, 0),
    ],
)
def test_an_attempt_that_stays_as_it_was_acted_tells_the_next_whether_it_reached_its_target(
    data, tasks, settings, target, reached
):
    """Without targets, that it has ended. Nothing is encoded again, so only the next step tells."""
    policy = noted(data, AgentConfig(trajectories=4, **settings))
    list(Evaluation(policy, tasks, replace(CONFIG, target=target)).attempts("own"))
    assert not policy.remembered
    for number, acted in enumerate(policy.acted):
        *_, before = acted[0]
        np.testing.assert_array_equal(before.done, [reached if number else 0] * TASKS)
        assert not any(step[-1].done.any() for step in acted[1:])


@pytest.mark.parametrize("condition", ["no_context", "dt"])
def test_controls_without_context_begin_empty_each_time(watched, condition):
    attempts = list(watched.attempts(condition))
    for attempt, acted in zip(attempts, watched.agent.acted, strict=True):
        check_attempt(watched, acted, 0, attempt.trajectory, nothing())
        assert set(watched.records(condition, attempt)["context_steps"]) == {0}
    assert not watched.agent.remembered


def test_foreign_contexts_hold_own_trajectories_on_the_other_tasks(watched, tasks):
    attempts = list(watched.attempts("foreign"))
    others = other_tasks(tasks, watched._player.stream("other tasks"))
    here, there = watched.agent.acted[0::2], watched.agent.acted[1::2]
    assert (len(here), len(there)) == (LONGEST, LONGEST - 1)
    past = nothing()
    for number, attempt in enumerate(attempts):
        check_attempt(watched, here[number], number * STEPS, attempt.trajectory, past)
        np.testing.assert_allclose(
            attempt.trajectory.reward, goal_reward(attempt.physics[:, 1:, :2], tasks), atol=REWARD
        )
        if number < LONGEST - 1:
            _, position, remembered, _ = watched.agent.remembered[number]
            assert position == number * STEPS
            check_attempt(watched, there[number], number * STEPS, remembered, past)
            # The observation after a step is that of the state which its reward is of; the last one
            # is not kept.
            expected = goal_reward(remembered.observation[:, 1:, :2], others)
            # Positions up to 0.3 in float32; the slope of 0.1 ** x**2 is at most 1.31, x counting
            # margins of 0.045.
            atol = REWARD + rounding(1) * 0.3 * np.sqrt(2) * 1.31 / 0.045
            np.testing.assert_allclose(remembered.reward[:, :-1], expected, atol=atol)
            past = end_of(remembered)


def test_prompts_are_the_datas_trajectories_under_the_rows_task_ascending(watched, data, tasks):
    attempts = list(watched.attempts("dataset"))
    rows = data.store.load(np.arange(data.store.episodes)).action.reshape(data.store.episodes, -1)
    for number, (attempt, acted) in enumerate(zip(attempts, watched.agent.acted, strict=True)):
        prompt = [
            trajectory for before, _, trajectory, _ in watched.agent.remembered if before == number
        ]
        assert len(prompt) == number
        for trajectory in prompt:
            for row, task in enumerate(tasks):
                (episode,) = np.flatnonzero(
                    (rows == trajectory.action[row].reshape(-1)).all(axis=1)
                )
                np.testing.assert_array_equal(
                    trajectory.reward[row], data.store.rewards(task, [episode])[0]
                )
        returns = [trajectory.reward.sum(axis=1) for trajectory in prompt]
        assert all(np.all(later >= earlier) for earlier, later in itertools.pairwise(returns))
        check_attempt(
            watched,
            acted,
            number * STEPS,
            attempt.trajectory,
            end_of(prompt[-1]) if prompt else nothing(),
        )


PLAIN = {"trajectories": 1, "selection": "uniform", "loss": "all"}
CLONE = PLAIN | {"return_conditioning": "none"}


@pytest.mark.parametrize(
    ("condition", "settings"),
    [
        ("dt", PLAIN | {"loss": "last", "target": "chain_max"}),  # the same, of one trajectory
        ("bc10", CLONE | {"top": 0.1, "imitate": "demonstrator"}),
        ("bc_told", CLONE | {"top": 0.1, "told": True}),
        ("td3", CLONE | {"learner": "td3", "loss": "good"}),  # chains are not used
        ("td3_bc_told", CLONE | {"learner": "td3_bc", "told": True}),
        ("iql", CLONE | {"learner": "iql"}),
        ("cql", CLONE | {"learner": "cql"}),
        ("crr_told", CLONE | {"learner": "crr", "told": True}),
        ("learner", {"learner": "anywhere:MINE"}),  # whose module is not imported
        ("learner_told", CLONE | {"learner": "anywhere:MINE", "told": True}),
        ("single", {"trajectories": 1}),  # at_prefix with a window of 1
        ("single", PLAIN | {"loss": "good"}),
        ("single", PLAIN | {"selection": "stratified"}),
        ("single", PLAIN | {"top": 0.1}),
        ("single", CLONE | {"top": 0.5}),
        ("single", CLONE | {"loss": "good"}),
        ("single", CLONE | {"weighting": "advantage"}),
        ("single_told", CLONE | {"told": True}),
        ("single_told", CLONE | {"top": 0.1, "told": True, "selection": "search"}),
        (None, PLAIN | {"trajectories": 2}),
    ],
)
def test_a_baseline_has_a_name_of_the_literature_only_if_it_is_that_method(condition, settings):
    assert baseline_condition(AgentConfig(**settings)) == condition


@pytest.mark.parametrize(
    ("condition", "settings"),
    [
        ("dt", {}),
        ("bc", {"return_conditioning": "none"}),
        ("bc10", {"return_conditioning": "none", "top": 0.1}),
        ("single", {"loss": "good"}),
    ],
)
def test_a_model_of_single_trajectories_is_a_baseline(data, tasks, condition, settings):
    agent = AgentConfig(**{"name": "mine"} | PLAIN | settings)
    policy = untrained_agent(describe(data, agent))
    evaluation = Evaluation(policy, tasks, CONFIG)
    assert evaluation.conditions() == [condition]
    (records, *_) = (
        evaluation.records(condition, attempt) for attempt in evaluation.attempts(condition)
    )
    assert set(records["condition"]) == {condition} and set(records["agent"]) == {"mine"}


def test_without_targets_nothing_is_encoded_twice(data, tasks):
    policy = untrained_agent(
        describe(data, AgentConfig(trajectories=4, return_conditioning="none"))
    )
    run = list(Evaluation(policy, tasks, CONFIG).attempts("own"))
    assert [attempt.encoded for attempt in run] == [STEPS] * 3


def test_evaluation_tasks_depend_on_the_seed_alone():
    assert evaluation_tasks(TASK, CONFIG, 3) == evaluation_tasks(TASK, CONFIG, 3)
    assert not set(evaluation_tasks(TASK, CONFIG, 3)) & set(evaluation_tasks(TASK, CONFIG, 4))
    goals = np.array(
        [task.params["goal"] for task in evaluation_tasks(TASK, EvalConfig(tasks=200), 0)]
    )
    # A goal's name holds six decimals, and the goal is what its name says.
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 0.15, atol=np.sqrt(0.5) * 1e-6)


def test_foreign_tasks_are_other_tasks_of_the_evaluation(tasks):
    others = other_tasks(tasks, rng(0))
    assert all(own.id != other.id for own, other in zip(tasks, others, strict=True))
    assert set(others) <= set(tasks)


def test_a_task_that_is_not_hidden_has_no_foreign_context():
    agent = AgentConfig(trajectories=4)
    assert "foreign" in conditions_of(agent, CONFIG, TASK)
    assert conditions_of(agent, CONFIG, "walker_walk") == ["own", "no_context", "dataset"]
    with pytest.raises(ValueError, match="needs two different tasks, all are walker_walk"):
        other_tasks([envs.task("walker_walk")] * 3, rng(0))


@pytest.mark.slow
def test_an_agent_on_another_task_than_it_was_trained_on_says_so(data, tasks, attempts):
    agent = untrained_agent(replace(describe(data), task="point_mass_elsewhere"))
    records = Evaluation(agent, tasks, CONFIG, task=TASK).records("own", attempts["own"][0])
    assert set(records["task"]) == {TASK}
    assert set(records["agent"]) == {"at_prefix trained on point_mass_elsewhere"}


def test_a_run_is_evaluated_on_tasks_of_its_domain_alone():
    trained = TrainCommand(task="walker_walk")
    asked = EvaluateCommand(run="run")
    assert evaluated_task(asked, trained) == "walker_walk"
    assert evaluated_task(replace(asked, task="walker_run"), trained) == "walker_run"
    with pytest.raises(ValueError, match=r"(?s)domain cheetah, the run's walker_walk.*walker_run"):
        evaluated_task(replace(asked, task="cheetah_run"), trained)
