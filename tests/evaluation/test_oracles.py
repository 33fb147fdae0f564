"""Ideal search against closed forms."""

import numpy as np
import pytest

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
