"""Ideal search against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from agentic_transformer.evaluation.oracles import ORACLES, search
from tests.seeds import rng
from tests.tolerances import SIGMAS


@pytest.mark.parametrize("rule", ORACLES)
def test_disjoint_goals_are_tried_without_repetition_and_then_repeated(rule):
    """Of K tasks, each with a trajectory of its own, the n-th attempt has found n/K."""
    goals = 5
    known = np.eye(goals)
    true = np.tile(known, (160, 1))
    earned = np.take_along_axis(true, search(known, true, 7, rule, rng(0)), axis=1)
    expected = np.minimum(np.arange(1, 8) / goals, 1)
    # Of 800 searches, each found or not: the standard deviation of a share is at most that of a
    # coin's.
    np.testing.assert_allclose(
        earned.mean(axis=0), expected, atol=SIGMAS * 0.5 / np.sqrt(len(true))
    )
    assert (np.diff(earned, axis=1) >= 0).all()


def test_greedy_weighs_chances_where_posterior_sampling_bets_on_one_task():
    """One trajectory pays 0.6 under both tasks, the others 1 under one of them: 0.5 expected."""
    known = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.6]])
    greedy, posterior = (
        np.take_along_axis(known, search(known, known, 2, rule, rng(0)), axis=1) for rule in ORACLES
    )
    assert (greedy[:, 0] == 0.6).all()
    assert set(posterior[:, 0]) <= {0.0, 1.0}
    assert (posterior[:, 1] == 1.0).all()


def test_greedy_maximises_the_expected_return_of_bayes_rule():
    """Against probabilities in the open; the last unit's task is unlike all that are known."""
    data, attempts = rng(1), 20
    known, true = data.gamma(1.0, 2.0, (6, 30)), data.gamma(1.0, 2.0, (5, 30))
    true[0], true[-1] = known[3], 2 * known.max()
    found = search(known, true, attempts, "bayes_greedy", rng(0))
    for returns, episodes in zip(true, found, strict=True):
        log_p = np.zeros(len(known))
        for episode in episodes:
            p = np.exp(log_p - log_p.max())
            assert episode == np.argmax(known.T @ (p / p.sum()))
            # A return is observed with a deviation of 5% of the best that is known.
            log_p += norm.logpdf(returns[episode], known[:, episode], 0.05 * known.max())
    # Each attempt is 20 deviations off or more: probabilities that are not scaled would be 0.
    assert log_p.max() < np.log(np.finfo(float).tiny)


def test_posterior_sampling_plays_for_a_task_as_often_as_it_is_likely():
    """Either first attempt is two deviations of 5% likelier under the true task: odds of e^2."""
    known, searches = np.array([[1.0, 0.88], [0.9, 0.98]]), 20_000
    true = np.tile(known[0], (searches, 1))
    played = (search(known, true, 2, "posterior_sampling", rng(2)) == 0).mean(axis=0)
    expected = np.array([0.5, 1 / (1 + np.exp(-2))])
    # The standard deviation of a share
    bound = SIGMAS * np.sqrt(expected * (1 - expected) / searches)
    np.testing.assert_array_less(np.abs(played - expected), bound)
