"""What the rows of an evaluation mean, checked on real physics with an untrained agent."""

import numpy as np
import pytest

import envs
from agentic_transformer.config import AgentConfig, EvalConfig
from agentic_transformer.evaluation import Evaluation, evaluation_tasks, other_tasks
from agentic_transformer.labels import LabelledTrajectories
from agentic_transformer.policy import Policy
from agentic_transformer.statistics import REQUIRED
from tests.agent.helpers import TASK, describe, labelled, untrained_policy

LONGEST, TASKS, STEPS = 3, 5, 12
CONFIG = EvalConfig(trajectories=[1, LONGEST], tasks=TASKS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tasks():
    return evaluation_tasks(TASK, CONFIG, seed=0)


@pytest.fixture(scope="module")
def evaluation(data, tasks):
    prompts = LabelledTrajectories(data.store, tasks, "exorl")
    return Evaluation(untrained_policy(describe(data)), tasks, CONFIG, prompts)


@pytest.fixture(scope="module")
def attempts(evaluation):
    return {condition: list(evaluation.attempts(condition)) for condition in evaluation.conditions()}


def test_every_condition_has_every_attempt_of_every_task(evaluation, attempts):
    assert list(attempts) == ["own", "no_context", "foreign", "dataset"]
    for condition, run in attempts.items():
        assert [attempt.number for attempt in run] == [1, 2, 3]
        for attempt in run:
            records = evaluation.records(condition, attempt)
            assert len(records) == TASKS
            assert set(REQUIRED) <= set(records)
            assert set(records["context_steps"]) == {0 if condition == "no_context" else (attempt.number - 1) * STEPS}


def test_returns_are_raw_sums_of_the_environments_rewards(evaluation, attempts, tasks):
    """Replays the recorded actions in the environments that the registry makes one by one."""
    attempt = attempts["own"][1]
    recorded = evaluation.records("own", attempt)["return"]
    for task, physics, expected in zip(tasks, attempt.physics, recorded, strict=True):
        distance = np.linalg.norm(physics[1:, :2] - np.array(task.params["goal"]), axis=1)
        # dm_control's default sigmoid: 0.1 at a distance of one margin beyond the bound
        reward = np.where(distance <= 0.045, 1.0, np.exp(-0.5 * ((distance - 0.045) / 0.045 * np.sqrt(-2 * np.log(0.1))) ** 2))
        assert expected == pytest.approx(reward.sum(), abs=1e-5)


def test_nth_attempts_start_alike_in_every_condition(attempts):
    for number in range(LONGEST):
        starts = [run[number].physics[:, 0] for run in attempts.values()]
        for start in starts[1:]:
            np.testing.assert_array_equal(start, starts[0])
    assert np.abs(attempts["own"][0].physics[:, 0] - attempts["own"][1].physics[:, 0]).max() > 0


def test_cost_of_encoding_counts_prompts_and_second_encodings(attempts):
    cost = {condition: [attempt.encoded for attempt in run] for condition, run in attempts.items()}
    assert cost["own"] == [2 * STEPS] * 3  # acted once, then encoded again with its own return as the target
    assert cost["no_context"] == cost["foreign"] == [STEPS] * 3
    assert cost["dataset"] == [STEPS, 2 * STEPS, 3 * STEPS]


def test_literal_targets_need_no_second_encoding(data, tasks):
    policy = untrained_policy(describe(data, AgentConfig(trajectories=4, target="chain_max")))
    run = list(Evaluation(policy, tasks, CONFIG).attempts("own"))
    assert [attempt.encoded for attempt in run] == [STEPS] * 3


def test_an_evaluation_is_repeatable(evaluation, attempts):
    for first, second in zip(attempts["foreign"], evaluation.attempts("foreign"), strict=True):
        np.testing.assert_array_equal(first.trajectory.action, second.trajectory.action)


class Watched(Policy):
    """Notes what stands in the context when an attempt begins."""

    def act(self, context, return_to_go, observation, timestep, *rest):
        if timestep == 0:
            self.began.append((context.position, return_to_go.copy(), context.past))
        return super().act(context, return_to_go, observation, timestep, *rest)


@pytest.fixture
def watched(data, tasks):
    policy = untrained_policy(describe(data))
    policy.__class__, policy.began = Watched, []
    return Evaluation(policy, tasks, CONFIG, LabelledTrajectories(data.store, tasks, "exorl"))


@pytest.mark.parametrize("condition", ["own", "foreign", "dataset"])
def test_contexts_hold_n_minus_one_trajectories(watched, condition):
    list(watched.attempts(condition))
    began = [position for position, _, _ in watched.policy.began]
    steps = {"own": [0, 12, 24], "dataset": [0, 12, 24], "foreign": [0, 0, 12, 12, 24]}[condition]
    assert began == steps  # "foreign" alternates: an attempt here, then the next trajectory of the context there


def test_no_context_and_the_baseline_begin_empty(watched):
    for condition in ("no_context", "dt"):
        list(watched.attempts(condition))
    assert {position for position, _, _ in watched.policy.began} == {0}
    assert all(not past.reward.any() for _, _, past in watched.policy.began)


def test_every_attempt_is_asked_for_the_same_return(watched):
    list(watched.attempts("own"))
    for _, asked, _ in watched.policy.began:
        np.testing.assert_allclose(asked, 0.95 * watched.description.best_return)


def test_a_model_of_single_trajectories_is_the_baseline(data, tasks):
    policy = untrained_policy(describe(data, AgentConfig(name="dt", trajectories=1)))
    assert Evaluation(policy, tasks, CONFIG).conditions() == ["dt"]


def test_evaluation_tasks_depend_on_the_seed_alone():
    assert evaluation_tasks(TASK, CONFIG, 3) == evaluation_tasks(TASK, CONFIG, 3)
    assert not set(evaluation_tasks(TASK, CONFIG, 3)) & set(evaluation_tasks(TASK, CONFIG, 4))
    goals = np.array([task.params["goal"] for task in evaluation_tasks(TASK, EvalConfig(tasks=200), 0)])
    # A goal's name holds six decimals, and the goal is what its name says.
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 0.15, atol=1e-6)


def test_foreign_tasks_are_other_tasks_of_the_domain(tasks):
    rng = np.random.default_rng(0)
    assert all(own.id != other.id for own, other in zip(tasks, other_tasks(tasks, rng), strict=True))
    walkers = other_tasks([envs.task("walker_walk")] * 3, rng)
    assert {task.domain for task in walkers} == {"walker"}
    assert "walker_walk" not in {task.id for task in walkers}
