"""Costs for rewards: what is asked for, found and poor has the order that it has for rewards."""

from types import SimpleNamespace

import numpy as np
import pytest

from agentic_transformer.agents.attempts import Player
from agentic_transformer.config import EvalConfig
from agentic_transformer.contexts.chains import near_best
from agentic_transformer.evaluation.retrieval import uninformative
from agentic_transformer.evaluation.search_metrics import RepeatMissRate
from agentic_transformer.evaluation.statistics import summarize
from envs import Task
from envs.registry import Params
from tests.evaluation.test_statistics import make_records
from tests.seeds import rng


@pytest.mark.parametrize(("best", "asked"), [(200.0, 190.0), (-200.0, -210.0), (0.0, 0.0)])
def test_an_agent_is_asked_for_no_more_than_the_best_of_the_data(best, asked):
    agent = SimpleNamespace(spec=SimpleNamespace(best_return=best))
    target = Player(agent, 3, EvalConfig(target=0.95)).target()
    np.testing.assert_allclose(target, [asked] * 3, rtol=1e-12)
    assert (target <= best).all()


def test_a_share_of_a_best_return_that_is_positive_is_their_product_to_the_last_bit():
    best = rng(0).uniform(1e-3, 1e3, 1000)
    np.testing.assert_array_equal(near_best(0.95, best), 0.95 * best)
    np.testing.assert_array_equal(near_best(1, -best), -best)


def test_poor_costs_lie_near_the_worst():
    """A tenth of the way from -19 to -9 is -18; the best is never poor, as it is of no rewards."""
    costs = -np.arange(9.0, 20.0)[None]
    np.testing.assert_array_equal(uninformative(costs), costs <= -18)
    np.testing.assert_array_equal(uninformative(19 + costs), 19 + costs <= 1)  # rewards 0 to 10
    assert not uninformative(9 + costs)[0, 0]  # the best cost is 0


def test_a_goal_is_found_by_what_costs_half_more_than_the_best():
    records = make_records([[-16.0, -14.0], [-10.0, -90.0], [-15.1, -15.1]])
    assert summarize(records.assign(best_return=-10.0))["found"].tolist() == [1 / 3, 2 / 3]


def test_an_agent_that_found_a_goal_at_a_cost_searches_no_more():
    tasks = [Task("point_mass_goal", Params({"goal": goal})) for goal in ((0.15, 0), (-0.15, 0))]
    metric = RepeatMissRate(tasks, best_return=np.full(2, -4.0), action_repeat=1)
    rates = [
        metric.update(np.zeros((2, 3, 4)), np.repeat(np.array(earned)[:, None] / 2, 2, axis=1))
        for earned in ([-8.0, -8.0], [-5.0, -8.0], [-5.0, -8.0])
    ]
    # Standing at the origin costs nothing, so it tries both goals. The first agent misses, repeats
    # that, has found its goal then; the second goes on repeating.
    np.testing.assert_array_equal(rates, [[np.nan] * 2, [1, 1], [np.nan, 1]])
