"""What contexts hold with a window, with changed rewards or order, and with one hidden hint."""

import itertools
from contextlib import closing

import numpy as np
import pytest

import envs
from agentic_transformer.agents.base import Trajectory
from agentic_transformer.config import AgentConfig, EvalConfig, ModelConfig
from agentic_transformer.contexts.chains import ChainSampler
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.token_layouts import PackedTokens
from agentic_transformer.evaluation import rollouts
from agentic_transformer.evaluation.conditions import evaluation_tasks
from agentic_transformer.evaluation.prompts import change, draw_partners
from agentic_transformer.evaluation.retrieval import POOR_SHARE, distances, draw_prompts
from agentic_transformer.evaluation.rollouts import Evaluation
from tests.evaluation.test_rollouts import STEPS, Watched
from tests.seeds import SEED, rng
from tests.small_agents import TASK, describe, labelled, untrained_agent

pytestmark = pytest.mark.slow

LONGEST, TASKS = 4, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(data):
    """Makes an evaluation whose agent notes what it is given."""

    def evaluation(agent=None, **settings):
        config = EvalConfig(**{"trajectories": [1, LONGEST], "tasks": TASKS} | settings)
        tasks = evaluation_tasks(TASK, config, seed=SEED)
        policy = untrained_agent(describe(data, agent))
        policy.__class__, policy.acted, policy.remembered = Watched, [], []
        return Evaluation(policy, tasks, config, RelabelledDataset(data.store, tasks, "exorl"))

    return evaluation


def play(evaluation, prompt, number, condition, room=LONGEST):
    """The n-th attempt behind a context that holds a prompt and nothing else."""
    context = evaluation.agent.new_context(TASKS, room)
    for one in prompt:
        own = one.reward.sum(axis=1, dtype=np.float64)
        context = evaluation.agent.append(context, one._replace(target=own))
    with closing(envs.make_vec(evaluation.tasks, horizon=STEPS)) as env:
        return evaluation._player.attempt(env, context, number, condition, keep=False)[0].trajectory


def assert_same(one, other):
    np.testing.assert_array_equal(one.action, other.action)
    np.testing.assert_array_equal(one.reward, other.reward)


@pytest.mark.parametrize(
    ("agent", "cost"),
    [
        (None, [2, 1, 2, 2]),  # the first is encoded again, with its own return
        (AgentConfig(trajectories=2, return_conditioning="none"), [1, 1, 2, 2]),
    ],
)
def test_a_window_is_a_context_that_holds_the_last_attempts_alone(make, agent, cost):
    evaluation = make(agent, window=2)
    attempts = list(evaluation.attempts("own"))
    for before, attempt in itertools.pairwise(attempts[1:]):  # the first was not forgotten yet
        alone = play(evaluation, [before.trajectory], attempt.number, "own", room=2)
        assert_same(attempt.trajectory, alone)
    records = [evaluation.records("own", attempt) for attempt in attempts]
    assert [table["context_steps"][0] for table in records] == [0, STEPS, STEPS, STEPS]
    assert {table["window"][0] for table in records} == {2}
    # From the third on, what the window holds is encoded anew before the attempt.
    assert [one.encoded for one in attempts] == [STEPS * times for times in cost]


def test_a_window_of_one_is_an_empty_context(make):
    evaluation = make(window=1)
    for condition in ("own", "foreign", "dataset", "shuffled"):
        list(evaluation.attempts(condition))
    assert {acted[0][0] for acted in evaluation.agent.acted} == {0}  # where each attempt begins


def test_a_window_of_all_attempts_changes_nothing(make):
    for condition in ("own", "dataset"):
        runs = [make(window=window).attempts(condition) for window in (None, LONGEST)]
        for one, other in zip(*runs, strict=True):
            assert_same(one.trajectory, other.trajectory)


def test_a_window_holds_the_best_trajectories_of_a_prompt_of_the_data(make):
    """They come last, as the data's are in ascending order of return."""
    held = []
    for window in (None, 2):
        evaluation = make(window=window)
        list(evaluation.attempts("dataset"))
        held.append(
            [
                [one for at, _, one, _ in evaluation.agent.remembered if at == number]
                for number in range(LONGEST)
            ]
        )
    for whole, kept in zip(*held, strict=True):
        assert len(kept) == min(len(whole), 1)
        for one, other in zip(whole[-1:], kept, strict=True):
            assert_same(one, other)


def test_zeroed_rewards_reach_the_tokens_and_nothing_else_changes(make, monkeypatch):
    evaluation = make()
    own = [attempt.trajectory for attempt in make().attempts("own")]
    tokens, encode = [], PackedTokens.encode_steps

    def noted(self, *steps, starts_chain):
        features, timesteps = encode(self, *steps, starts_chain)
        tokens.append(features)
        return features, timesteps

    monkeypatch.setattr(PackedTokens, "encode_steps", noted)
    attempts = list(evaluation.attempts("zero_rewards"))
    size = evaluation.spec.observation_size
    # The first prompt of one trajectory was encoded behind the first probe and the first attempt,
    # the latter a second time with its own return.
    prompt = tokens[2 * STEPS + 1]
    np.testing.assert_array_equal(prompt[..., 0], 0)  # what is still to be earned
    np.testing.assert_array_equal(prompt[..., 1 + size + 2], 0)  # the reward before
    observation = evaluation.agent.layout.normalizer.normalize(own[0].observation)
    np.testing.assert_array_equal(prompt[..., 1 : 1 + size], observation.astype(np.float32))
    np.testing.assert_array_equal(prompt[:, 1:, 1 + size :][..., :2], own[0].action[:, :-1])
    for number, attempt in enumerate(attempts, 1):
        blanked = [one._replace(reward=np.zeros_like(one.reward)) for one in own[: number - 1]]
        assert_same(attempt.trajectory, play(evaluation, blanked, number, "zero_rewards"))
        assert attempt.encoded == number * STEPS


def test_rewards_of_another_attempt_are_those_of_another_task(make):
    evaluation = make()
    own = [attempt.trajectory for attempt in make().attempts("own")]
    partner = draw_partners(evaluation.tasks, evaluation._player.stream("partners"))
    for number, attempt in enumerate(evaluation.attempts("other_rewards"), 1):
        swapped = [one._replace(reward=one.reward[partner]) for one in own[: number - 1]]
        assert_same(attempt.trajectory, play(evaluation, swapped, number, "other_rewards"))


def test_partners_are_of_another_task_where_there_is_one():
    tasks = [envs.task(TASK, goal=goal) for goal in ((0.1, 0.1), (0.1, -0.1))]
    tasks = [tasks[0], tasks[1], tasks[0], tasks[0]]
    partner = draw_partners(tasks, rng(0))
    assert all(tasks[row] != tasks[other] for row, other in enumerate(partner))
    alone = draw_partners(tasks[:1] * 3, rng(0))
    assert all(row != other for row, other in enumerate(alone))


def named_trajectories(count, batch):
    """Trajectories all of whose numbers are their names: 0 to `batch - 1` are the first ones."""
    return [
        Trajectory(*(np.tile(name[:, None, None], (1, 3, 2)),) * 2, np.tile(name[:, None], 3), name)
        for name in np.arange(count * batch, dtype=float).reshape(count, batch)
    ]


def test_changed_rewards_leave_all_else_as_it_was():
    """Targets, too: an agent with `agent.target=chain_max` sees them."""
    prompt, partner = named_trajectories(3, 4), np.array([2, 0, 3, 1])
    expected = {"zero_rewards": np.zeros((3, 4)), "other_rewards": [[2, 0, 3, 1], [6, 4, 7, 5]]}
    expected["other_rewards"] += [[10, 8, 11, 9]]
    for condition, names in expected.items():
        changed = change(condition, prompt, partner, rng(0))
        for one, other, name in zip(prompt, changed, names, strict=True):
            rewards = np.tile(np.array(name)[:, None], 3)
            for found, kept in zip(other, one._replace(reward=rewards), strict=True):
                np.testing.assert_array_equal(found, kept)


@pytest.mark.parametrize("count", [2, 5])
def test_a_shuffled_context_holds_the_same_trajectories_in_another_order(count):
    batch = 20
    prompt = named_trajectories(count, batch)
    numbers = np.stack([one.target for one in prompt])
    shuffled = change("shuffled", prompt, np.arange(batch), rng(0))
    named = np.stack([one.target for one in shuffled])
    np.testing.assert_array_equal(np.sort(named, axis=0), numbers)
    assert (named != numbers).any() and len(np.unique(named % batch - np.arange(batch))) == 1
    for one in shuffled:  # all parts of a trajectory move together
        for part in (one.observation, one.action, one.reward):
            expected = one.target.reshape(batch, *[1] * (part.ndim - 1))
            np.testing.assert_array_equal(part, np.broadcast_to(expected, part.shape))
    # Every row has an order of its own.
    assert len({tuple(row) for row in (named // batch).T}) > 1


def test_distances_are_powers_of_two_and_the_far_end():
    assert distances(1) == [] and distances(2) == [1]
    assert distances(4) == [1, 2, 3] and distances(128) == [1, 2, 4, 8, 16, 32, 64, 127]


def test_prompts_hold_each_poor_trajectory_once_and_any_of_the_good_ones():
    returns = np.array([[0.0, 9, 5, 1, 8, 0, 1, 10], [100.0, 0, 0, 10, 10, 50, 50, 70]])
    sampler = ChainSampler(returns, AgentConfig(trajectories=2), seed=SEED)
    drawn = [draw_prompts(sampler, 4, rng(draw)) for draw in range(50)]
    for poor, _ in drawn:
        np.testing.assert_array_equal(np.sort(poor, axis=1), [[0, 3, 5, 6], [1, 2, 3, 4]])
    # One of three is missed by 50 draws once in 6e8 cases.
    good = [{int(chosen[task]) for _, chosen in drawn} for task in range(2)]
    assert good == [{1, 4, 7}, {0, 7}]


def test_the_informative_trajectory_stands_at_its_place_among_poor_ones(make):
    evaluation = make(conditions=["retrieval", "distractors"])
    returns, good = evaluation.data.returns, evaluation.spec.agent.selection_threshold
    held = {}
    for condition in evaluation.conditions():
        evaluation.agent.remembered.clear()
        evaluation.agent.acted.clear()
        attempts = list(evaluation.attempts(condition))
        assert len(attempts) == evaluation.count(condition)
        for index, attempt in enumerate(attempts):
            key = condition, attempt.number, attempt.distance if condition == "retrieval" else None
            held[key] = [one for at, _, one, _ in evaluation.agent.remembered if at == index]
            recorded = evaluation.records(condition, attempt)["distance"][0]
            np.testing.assert_array_equal(recorded, attempt.distance)
    wanted = [("retrieval", LONGEST, distance) for distance in (1, 2, 3)]
    assert list(held) == [*wanted, ("distractors", 1, None), ("distractors", LONGEST, None)]
    poor = held.pop(("distractors", LONGEST, None))
    share = np.array([one.reward.sum(axis=1) for one in poor]) / returns.max(axis=1)
    assert share.shape == (LONGEST - 1, TASKS) and (share <= POOR_SHARE + 1e-6).all()
    for _, _, distance in wanted:
        context = held["retrieval", LONGEST, distance]
        share = np.array([one.reward.sum(axis=1) for one in context]) / returns.max(axis=1)
        assert (share[-distance] >= good - 1e-6).all()
        for place, (one, other) in enumerate(zip(context, poor, strict=True)):
            same = (one.action == other.action).all()
            assert same == (place != LONGEST - 1 - distance)


def test_conditions_with_a_hint_and_without_differ_in_the_hint_alone(make, monkeypatch):
    """Where no place is taken by an informative trajectory, actions are drawn alike."""
    evaluation = make(conditions=["retrieval", "distractors"], trajectories=[3])
    monkeypatch.setattr(rollouts, "place", lambda poor, good, distance: poor)
    (poor,) = evaluation.attempts("distractors")
    for attempt in evaluation.attempts("retrieval"):
        assert_same(attempt.trajectory, poor.trajectory)


def test_what_retrieval_cannot_have_is_said(make):
    with pytest.raises(ValueError, match="eval.window=null"):
        make(conditions=["distractors"], window=2).check()
    with pytest.raises(ValueError, match="needs 4999 trajectories that earn almost nothing; the"):
        make(conditions=["retrieval"], trajectories=[5000]).check()
    with pytest.raises(ValueError, match="needs a context; eval.trajectories=.1. asks"):
        make(conditions=["retrieval"], trajectories=[1]).check()
    lacking = make(conditions=["distractors"])
    lacking.data = None
    with pytest.raises(ValueError, match="condition 'distractors' needs the training data"):
        lacking.check()


def test_entropies_of_attempts_are_recorded(make, data):
    evaluation = make()
    (attempt, *_) = evaluation.attempts("no_context")
    entropy, records = attempt.trajectory.entropy, evaluation.records("no_context", attempt)
    assert entropy.shape == (TASKS, STEPS) and np.isfinite(entropy).all()
    np.testing.assert_array_equal(records["first_action_entropy"], entropy[:, 0])
    np.testing.assert_allclose(records["action_entropy"], entropy.mean(axis=1))
    model = ModelConfig(width=16, layers=1, head="mse")
    certain = Evaluation(
        untrained_agent(describe(data, model=model)), evaluation.tasks, evaluation.config
    )
    (attempt, *_) = certain.attempts("no_context")
    assert certain.records("no_context", attempt)["action_entropy"].isna().all()
