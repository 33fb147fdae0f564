"""Chains against a brute-force rewrite that knows nothing of ranks, packing or vectorised draws."""

from types import SimpleNamespace

import numpy as np
import pytest

from agentic_transformer.config import AgentConfig
from agentic_transformer.contexts.chains import ChainSampler, available_episodes
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.search_posterior import return_size
from tests.seeds import SEED, rng
from tests.tolerances import SIGMAS

RETURNS = rng(0).gamma(1.0, 2.0, (5, 40))
PAPER = AgentConfig(
    trajectories=6, chain_length="uniform", selection="uniform", target="chain_max", loss="all"
)
PREFIX = AgentConfig(
    trajectories=6, chain_length="full", selection="stratified", target="own", loss="good"
)


def chains_of(rows):
    """(task, episodes, targets, weights) of every chain, read off slot by slot."""
    for row in range(len(rows.task)):
        for chain in range(rows.chain[row].max() + 1):
            slots = [slot for slot in range(rows.task.shape[1]) if rows.chain[row, slot] == chain]
            yield tuple(
                [column[row, slot] for slot in slots]
                for column in (rows.task, rows.episode, rows.target, rows.weight)
            )


@pytest.mark.parametrize(
    "config", [PAPER, PREFIX, AgentConfig(trajectories=6, chain_length="uniform", loss="last")]
)
def test_chains_are_what_the_paper_describes(config):
    sampler = ChainSampler(RETURNS, config, seed=SEED)
    for step in range(20):
        for tasks, episodes, targets, weights in chains_of(sampler.draw(step, 16)):
            (task,) = set(tasks)
            assert len(set(episodes)) == len(episodes)
            earned = [RETURNS[task, episode] for episode in episodes]
            assert earned == sorted(earned)
            for place, (own, target, weight) in enumerate(
                zip(earned, targets, weights, strict=True)
            ):
                assert target == (max(earned) if config.target == "chain_max" else own)
                learned = {
                    "all": True,
                    "last": place == len(episodes) - 1,
                    "good": own >= config.loss_threshold * max(RETURNS[task]),
                }
                assert weight == float(learned[config.loss])


def test_every_length_is_drawn_and_no_slot_is_empty():
    sampler = ChainSampler(RETURNS, PAPER, seed=SEED)
    lengths = [len(chain[0]) for step in range(100) for chain in chains_of(sampler.draw(step, 100))]
    assert set(lengths) == set(range(1, 7))
    assert sum(lengths) == 100 * 100 * 6


def test_full_length_chains_fill_their_row():
    assert {
        len(chain[0]) for chain in chains_of(ChainSampler(RETURNS, PREFIX, seed=SEED).draw(0, 50))
    } == {6}


def test_stratified_share_of_good_trajectories_is_uniform():
    config = AgentConfig(trajectories=8, selection="stratified", selection_threshold=0.6)
    returns = np.linspace(0, 1, 1000)[None]
    sampler = ChainSampler(returns, config, seed=SEED)
    counts = np.zeros(9)
    for step in range(40):
        good = (returns[0, sampler.draw(step, 100).episode] >= 0.6).sum(axis=1)
        counts += np.bincount(good, minlength=9)
    # A binomial count with a uniform probability is uniform over 0..8.
    assert np.all(np.abs(counts - 4000 / 9) < SIGMAS * np.sqrt(4000 * 1 / 9 * 8 / 9))


def test_good_trajectories_alone_are_enough():
    sampler = ChainSampler(np.ones((1, 8)), AgentConfig(trajectories=8), seed=SEED)
    assert sorted(sampler.draw(0, 1).episode[0]) == list(range(8))


@pytest.mark.parametrize("selection", ["uniform", "stratified"])
def test_chains_of_the_top_hold_the_best_trajectories_alone_and_all_of_them(selection):
    sampler = ChainSampler(
        RETURNS, AgentConfig(trajectories=2, selection=selection, top=0.25), seed=SEED
    )
    drawn = [sampler.draw(step, 50) for step in range(20)]
    for task, returns in enumerate(RETURNS):
        found = {episode for rows in drawn for episode in rows.episode[rows.task == task]}
        assert found == set(np.argsort(returns)[-10:])


@pytest.mark.parametrize(
    ("episodes", "top", "used"), [(100, 0.29, 29), (10, 0.01, 1), (10, 0.26, 3), (7, 1.0, 7)]
)
def test_the_top_is_a_rounded_number_of_trajectories_and_never_none(episodes, top, used):
    """In floating point, 0.29 of 100 is a little less than 29."""
    assert available_episodes(episodes, top) == used


def test_what_earns_exactly_the_share_is_good_and_learned():
    returns = np.arange(11.0)[None]  # 6 of 10 are good, 5 of 10 are learned
    config = AgentConfig(
        trajectories=11, chain_length="full", selection_threshold=0.6, loss_threshold=0.5
    )
    sampler = ChainSampler(returns, config, seed=SEED)
    assert returns[0, sampler.ranking[0, sampler.first_good[0]]] == 6
    chains = sampler.draw(0, 1)
    np.testing.assert_array_equal(chains.weight, returns[0, chains.episode] >= 5)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_trajectory_alone_is_good_and_learned_where_all_of_the_best_is_asked_for(sign):
    """Rounding asks for no more than it: of costs, the whole way from the worst to the best."""
    returns = sign * rng(3).gamma(1.0, 2.0, (500, 4))
    config = AgentConfig(
        trajectories=4, chain_length="full", selection_threshold=1.0, loss_threshold=1.0
    )
    sampler = ChainSampler(returns, config, seed=SEED)
    np.testing.assert_array_equal(sampler.first_good, 3)
    np.testing.assert_array_equal(sampler.draw(0, 500).weight, [[0, 0, 0, 1]] * 500)


def test_a_step_is_drawn_alike_whatever_came_before():
    once, again = ChainSampler(RETURNS, PREFIX, seed=SEED), ChainSampler(RETURNS, PREFIX, seed=SEED)
    stream = [once.draw(step, 4) for step in range(5)]
    for a, b in zip(stream[4], again.draw(4, 4), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(
        stream[0].episode, ChainSampler(RETURNS, PREFIX, seed=SEED + 1).draw(0, 4).episode
    )


def test_too_few_trajectories_are_refused():
    with pytest.raises(ValueError, match="agent.trajectories=6 .* the data holds 5"):
        ChainSampler(RETURNS[:, :5], PREFIX, seed=SEED)
    with pytest.raises(ValueError, match=r"the data holds 4 \(agent.top=0.1 of 40\)"):
        ChainSampler(RETURNS, AgentConfig(trajectories=6, top=0.1), seed=SEED)
    with pytest.raises(
        ValueError, match="a chain of 41 distinct trajectories cannot be drawn from 40"
    ):
        ChainSampler(RETURNS, PREFIX, seed=SEED).draw_trajectories(rng(0), 0, 41)


@pytest.mark.parametrize("top", [1.0, 0.5])
def test_a_history_is_in_the_order_of_collection_whatever_it_earned(top):
    config = AgentConfig(trajectories=6, selection="history", target="own", loss="all", top=top)
    sampler = ChainSampler(RETURNS, config, seed=SEED)
    drawn = [chain for step in range(40) for chain in chains_of(sampler.draw(step, 50))]
    falls = 0
    for tasks, episodes, targets, weights in drawn:
        (task,) = set(tasks)
        assert list(episodes) == sorted(set(episodes))
        assert targets == [RETURNS[task, episode] for episode in episodes]
        assert set(weights) == {1}
        falls += targets != sorted(targets)
    assert falls  # returns do not decide the order
    for task, returns in enumerate(RETURNS):
        found = {
            episode for tasks, episodes, *_ in drawn if tasks[0] == task for episode in episodes
        }
        assert found == set(np.argsort(returns)[-round(40 * top) :])


SEARCH = AgentConfig(
    trajectories=5, selection="search", target="chain_max", loss="all", selection_threshold=0.9
)


def test_searches_rule_goals_out():
    """No goal is missed twice, and one that is found is repeated.

    There are eight goals, each reached by ten trajectories of its own.
    """
    goals, length, searches = 8, SEARCH.trajectories, 4000
    returns = np.kron(np.eye(goals), np.ones(10))
    chains = ChainSampler(returns, SEARCH, seed=SEED).draw(0, searches)
    misses = np.zeros(length + 1)
    for task, episodes in zip(chains.task[:, 0], chains.episode, strict=True):
        tried = list(episodes // 10)
        found = tried.index(task) if task in tried else length
        assert len(set(tried[:found])) == found
        assert set(tried[found:]) <= {task}
        misses[found] += 1
    # So many misses are certain, each number as likely; behind them every goal that is left is as
    # likely at each attempt.
    certain = np.arange(length)
    expected = [
        sum(1 / length / (goals - m) for m in certain if m <= number) for number in range(length)
    ]
    expected.append(1 - sum(expected))
    # At most the standard deviation of a binomial count
    np.testing.assert_array_less(
        np.abs(misses - searches * np.array(expected)),
        SIGMAS * np.sqrt(searches * np.array(expected)),
    )


def test_a_search_tries_tasks_as_often_as_its_returns_make_them_likely():
    """Returns of two tasks differ by two deviations of 5% of the best, 1: odds of e^2."""
    returns, searches = np.array([[1.0, 0.88], [0.9, 0.98]]), 6000
    config = AgentConfig(
        trajectories=2, selection="search", chain_length="full", selection_threshold=1.0
    )
    chains = ChainSampler(returns, config, seed=SEED).draw(0, searches)
    # The best trajectory of a task has its number.
    found = (chains.episode[:, 1] == chains.task[:, 1]).mean()
    likely = 1 / (1 + np.exp(-2))
    # One half knows the task from the start. The other is told that the first attempt earned the
    # worst, 0.88, which lies 2.4 and 0.4 deviations off or 0 and 2, and draws a task and a guess.
    told = np.array([1 / (1 + np.exp((2.4**2 - 0.4**2) / -2)), likely])
    expected = likely / 2 + (told**2 + (1 - told) ** 2).mean() / 2
    bound = SIGMAS * np.sqrt(expected * (1 - expected) / searches)
    assert abs(found - expected) < bound


def test_every_attempt_of_a_search_is_learned_and_asked_for_its_best():
    chains = ChainSampler(RETURNS, SEARCH, seed=SEED).draw(0, 50)
    earned = RETURNS[chains.task, chains.episode]
    np.testing.assert_array_equal(
        chains.target, np.broadcast_to(earned.max(axis=1, keepdims=True), earned.shape)
    )
    np.testing.assert_array_equal(chains.weight, 1)
    best = RETURNS.max(axis=1)
    assert (
        (RETURNS[:, chains.episode] >= SEARCH.selection_threshold * best[:, None, None])
        .any(axis=0)
        .all()
    )  # good for some task


def test_good_costs_are_those_near_the_best_one():
    """Returns of costs are negative; good ones lie at 60% of the way from the worst to the best."""
    costs = -np.arange(10.0, 20.0)[None]  # best -10, worst -19
    sampler = ChainSampler(costs, AgentConfig(trajectories=2), seed=SEED)
    assert 10 - sampler.first_good[0] == (costs >= -19 + 0.6 * 9).sum() == 4
    for tasks, episodes, _, weights in chains_of(sampler.draw(0, 64)):
        earned = costs[tasks[0], episodes]
        np.testing.assert_array_equal(weights, earned >= -19 + 0.5 * 9)


def test_a_search_is_drawn_where_rewards_are_costs_and_the_best_return_is_0():
    costs = np.array([[0.0, -9.0, -5.0], [-9.0, 0.0, -7.0]])
    config = AgentConfig(trajectories=3, selection="search", selection_threshold=1.0)
    with np.errstate(all="raise"):
        chains = ChainSampler(costs, config, seed=SEED).draw(0, 400)
    assert set(chains.episode.flat) == {0, 1}  # the best trajectories of the two tasks
    # Searches that miss less than twice know the task, as returns differ by many deviations.
    found = chains.task[:, 0] == chains.episode[:, -1]
    assert found.mean() > 1 / 2 + SIGMAS * np.sqrt(1 / 4 / 400)


@pytest.mark.parametrize(
    ("returns", "size"), [([3.0, -8.0], 3.0), ([0.0, -8.0], 8.0), ([0.0], 1.0)]
)
def test_the_size_of_returns_is_never_0(returns, size):
    assert return_size(np.array(returns)) == size


@pytest.mark.parametrize("selection", ["uniform", "stratified", "search", "history"])
@pytest.mark.parametrize("alike", [0.0, -7.0])
def test_tasks_at_which_all_earn_the_same_and_nothing_are_left_out(selection, alike):
    """The others are drawn as if those were not there."""
    config = AgentConfig(trajectories=4, selection=selection)
    for others in (RETURNS, RETURNS - 20):  # rewards, and costs
        returns = np.insert(others, [0, 2], alike, axis=0)  # tasks 0 and 3
        sampler, alone = (ChainSampler(x, config, seed=SEED) for x in (returns, others))
        assert list(sampler.tasks) == [1, 2, 4, 5, 6]
        assert sampler.ranking.shape == returns.shape  # evaluations ask for all tasks
        found = sampler.draw(3, 200)
        assert set(found.task.flat) == set(sampler.tasks)
        if selection != "search":  # which draws a number for every task
            expected = alone.draw(3, 200)
            np.testing.assert_array_equal(found.task, sampler.tasks[expected.task])
            for x, y in zip(found[1:], expected[1:], strict=True):
                np.testing.assert_array_equal(x, y)


def test_training_says_how_many_tasks_are_left_out(capsys):
    for returns in (RETURNS, np.insert(RETURNS, [0, 2], 0.0, axis=0)):
        data = SimpleNamespace(returns=returns)
        ChainLoader(data, AgentConfig(trajectories=4), layout=None, seed=SEED, rows=2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("tasks: 2 of 7 are left out of chains")


@pytest.mark.parametrize(("goals", "said"), [(8, False), (60, True)])
def test_training_says_if_searches_are_for_few_of_the_tasks(goals, said, capsys):
    """Misses rule out what pays always, so that what pays rarely is drawn most.

    Eight tasks are found by trajectories of their own. The others pay for every trajectory.
    """
    returns = np.ones((goals, 80))
    returns[:8] = np.kron(np.eye(8), np.ones(10))
    sampler = ChainSampler(returns, SEARCH, seed=SEED)
    before = sampler.draw(0, 2)
    ChainLoader(SimpleNamespace(returns=returns), SEARCH, layout=None, seed=SEED, rows=2)
    assert ("some are searched for far more often" in capsys.readouterr().out) == said
    for x, y in zip(before, sampler.draw(0, 2), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_effective_number_of_tasks_is_that_of_their_probabilities():
    sampler = ChainSampler(RETURNS, PAPER, seed=SEED)  # five tasks, drawn alike
    # A share of about 1/5 of all pairs; 3,000 chains at least, of which each is in many pairs.
    assert abs(sampler.evenly_drawn(3000) - 5) < 5 * SIGMAS / np.sqrt(3000)
    alone = ChainSampler(np.ones((1, 8)), AgentConfig(trajectories=4), seed=SEED)
    assert alone.evenly_drawn() == 1


@pytest.mark.parametrize("selection", ["uniform", "search"])
def test_what_earns_the_same_is_drawn_if_it_earns_something_or_if_there_is_no_other(selection):
    config = AgentConfig(trajectories=4, selection=selection)
    for alike in (1.0, 0.0, -7.0):
        chains = ChainSampler(np.full((3, 8), alike), config, seed=SEED).draw(0, 200)
        assert set(chains.task.flat) == {0, 1, 2}


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("uniform", "010603 012328 000803 173526"),
        ("stratified", "020603 020903 113236 121913"),
        ("search", "252522 252622 020602 251519"),
        ("history", "010306 012328 000308 173526"),
    ],
)
def test_chains_of_past_runs_are_drawn_again(selection, expected):
    """A run of a committed result can be repeated: its draws do not change with the code.

    They were written down when no task was ever left out.
    """
    returns = np.arange(40).reshape(4, 10) * 7 % 23
    config = AgentConfig(trajectories=3, chain_length="uniform", selection=selection)
    chains = ChainSampler(returns, config, seed=5).draw(2, 4)
    drawn = " ".join(
        "".join(f"{task}{episode}" for task, episode in zip(*row, strict=True))
        for row in zip(chains.task, chains.episode, strict=True)
    )
    assert drawn == expected
