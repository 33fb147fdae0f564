"""Statistics against closed forms."""

import operator
from functools import reduce

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_1samp

from agentic_transformer.evaluation import statistics
from tests.seeds import rng
from tests.tolerances import SIGMAS

OF_AN_END = np.sqrt(0.025 * 0.975 / statistics.RESAMPLES) / 0.0584 / 1.96
"""Deviation of an end of an interval, relative to half of it: that of a quantile of so many draws,
by the normal density there."""


def make_records(returns, condition="own", agent="at", seed=0):
    """Records of a (units, attempts) table of returns."""
    rows = [
        {"agent": agent, "task": "t", "condition": condition, "seed": seed,
         "eval_seed": 0, "task_id": f"g{unit}", "rollout": 0,
         "best_return": np.nan, "repeat_miss_rate": np.nan, "distance": np.nan,
         "action_entropy": np.nan, "first_action_entropy": np.nan, "trajectories": n + 1,
         "context_steps": 12 * n, "context_tokens": 48 * n, "trained_trajectories": 2,
         "episode_steps": 12,
         "return": value}
        for unit, row in enumerate(returns) for n, value in enumerate(row)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def interval(values, seeds):
    return statistics.interval(pd.Series(np.ravel(values)), pd.Series(np.ravel(seeds)))


def test_interval_of_one_seed_is_near_the_normal_one():
    values = rng(0).normal(2.0, 1.0, 400)
    mean, low, high = interval(values, np.zeros(400))
    half = 1.96 * values.std() / 20
    off = SIGMAS * OF_AN_END * half
    assert mean == pytest.approx(values.mean())
    assert interval(values, np.zeros(400)) == (mean, low, high)  # resampled alike each time
    assert (low, high) == (pytest.approx(mean - half, abs=off), pytest.approx(mean + half, abs=off))


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_interval_of_several_seeds_is_students_over_their_means(seeds):
    means = rng(0).normal(0, 1, seeds)
    # The units of a seed may differ in number and size: only their mean tells.
    values = np.concatenate([m + np.array([-3.0, 3.0] * (i + 1)) for i, m in enumerate(means)])
    of_units = np.repeat(np.arange(seeds), 2 * np.arange(1, seeds + 1))
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    assert interval(values, of_units) == pytest.approx((means.mean(), *expected))


def test_seeds_that_do_not_differ_have_the_interval_of_all_their_units():
    """Another order of the same values has the same mean, up to rounding."""
    data = rng(0)
    of_seed = data.normal(2.0, 1.0, 200)
    values = np.concatenate([of_seed, *(data.permutation(of_seed) for _ in range(2))])
    seeds = np.repeat(np.arange(3), 200)
    half = 1.96 * of_seed.std() / np.sqrt(600)
    expected = of_seed.mean(), of_seed.mean() - half, of_seed.mean() + half
    assert interval(values, seeds) == pytest.approx(expected, abs=SIGMAS * OF_AN_END * half)
    # What the units do not differ in is certain, and a seed that differs makes it Student's again.
    assert interval(np.full(6, 0.1), np.repeat([0, 1, 2], 2)) == pytest.approx((0.1, 0.1, 0.1))
    apart = values + 0.01 * (seeds == 0)
    means = of_seed.mean() + np.array([0.01, 0, 0])
    students = ttest_1samp(means, 0).confidence_interval(0.95)
    assert interval(apart, seeds) == pytest.approx((means.mean(), *students))


def test_equal_means_of_seeds_do_not_make_a_difference_certain():
    """Each of two seeds earns 5 in 14 of 40 rollouts, and in 12 of 40 with an empty context."""
    data = rng(0)
    records = [
        make_records(data.permutation(np.repeat([[5.0], [0.0]], [n, 40 - n], axis=0)), of, seed=s)
        for of, n in (("own", 14), ("no_context", 12))
        for s in (0, 1)
    ]
    row = statistics.compare(pd.concat(records)).iloc[0]
    assert row["difference"] == pytest.approx(0.25)
    assert row["low"] < 0 < row["high"]


@pytest.mark.slow
@pytest.mark.parametrize("of_seeds", [0.0, 0.5, 2.0])
def test_intervals_cover_the_mean_in_95_percent(of_seeds):
    """Three seeds of 40 units each, whose levels differ not at all, somewhat and greatly."""
    data, runs = rng(1), 2000
    seeds = np.repeat(np.arange(3), 40)
    covered = 0
    for _ in range(runs):
        values = data.normal(0, of_seeds, 3)[seeds] + data.normal(0, 1, 120)
        _, low, high = interval(values, seeds)
        covered += low <= 0 <= high
    assert covered / runs == pytest.approx(0.95, abs=SIGMAS * np.sqrt(0.05 * 0.95 / runs))


def test_a_constant_has_an_interval_without_width():
    assert interval(np.full(5, 3.0), np.zeros(5)) == (3.0, 3.0, 3.0)


def test_best_of_n_is_the_running_maximum_and_the_mean_is_of_the_nth():
    returns = np.array([[1.0, 3.0, 2.0], [2.0, 0.0, 5.0]])
    summary = statistics.summarize(make_records(returns)).set_index("trajectories")
    assert summary["mean"].tolist() == [1.5, 1.5, 3.5]
    assert summary["best_mean"].tolist() == [1.5, 2.5, 4.0]
    assert summary["context_tokens"].tolist() == [0, 48, 96]
    backwards = statistics.summarize(make_records(returns)[::-1]).set_index("trajectories")
    assert backwards["best_mean"].to_dict() == summary["best_mean"].to_dict()


def test_comparison_is_paired():
    data = rng(0)
    level = data.normal(0, 100, (50, 1))  # tasks differ far more than conditions do
    own, control = level + 1 + data.normal(0, 0.1, (50, 1)), level
    other = np.flip(control, axis=0)
    records = pd.concat(
        [
            make_records(own),
            make_records(control, "no_context"),
            make_records(other, "dt", agent="dt"),
        ]
    )
    # A second seed on tasks of the same names, far better in every condition: pairs stay within a
    # seed.
    far = [make_records(own + 1e4, seed=1), make_records(control + 1e4, "no_context", seed=1)]
    records = pd.concat([records, *far, make_records(other + 1e4, "dt", agent="dt", seed=1)])
    compared = statistics.compare(records).set_index("against")
    assert set(compared["units"]) == {100} and set(compared["seeds"]) == {2}
    assert compared.loc["no_context", "low"] > 0.9
    assert compared.loc["no_context", "high"] < 1.1
    # The baseline's returns belong to other tasks: nothing cancels.
    one_seed = statistics.compare(records[records["seed"] == 0]).set_index("against")
    assert one_seed.loc["no_context", "low"] > 0.9
    assert one_seed.loc["dt", "low"] < -1


def test_attempts_from_other_starts_are_no_pairs():
    """One task that is not hidden: the seeds alone tell where an attempt started."""
    own = make_records([[5.0], [6.0]])
    for columns in ({"eval_seed": 1}, {"seed": 1}, {"rollout": 1}):
        other = make_records([[1.0], [1.0]], "dt", agent="dt").assign(**columns)
        assert statistics.compare(pd.concat([own, other])).empty
        both = pd.concat([own, other, own.assign(**columns)])
        assert statistics.compare(both)["difference"].tolist() == [4.5]


def test_the_best_of_n_is_that_of_attempts_of_one_evaluation():
    records = [make_records([[7.0, 1.0]]), make_records([[1.0, 2.0]]).assign(eval_seed=1)]
    summary = statistics.summarize(pd.concat(records))
    assert summary["best_mean"].tolist() == [4.0, 4.5] and summary["units"].tolist() == [2, 2]


def test_two_baselines_are_two_comparisons():
    own, worse, better = ([[value]] * 4 for value in (5.0, 3.0, 9.0))
    tables = [
        make_records(own),
        make_records(worse, "dt", agent="small"),
        make_records(better, "dt", agent="large"),
    ]
    compared = statistics.compare(pd.concat(tables)).set_index("baseline")
    assert compared["difference"].to_dict() == {"small": 2.0, "large": -4.0}
    assert set(compared["units"]) == {4}


def test_only_attempts_on_the_same_task_with_the_same_n_are_compared():
    own, other = make_records([[5.0, 6.0]]), make_records([[1.0, 3.0]], "no_context")
    elsewhere = [table.assign(task="u", **{"return": 0.0}) for table in (own, other)]
    hidden = [other.assign(condition="retrieval", distance=distance) for distance in (1, 2)]
    compared = statistics.compare(pd.concat([own, other, *elsewhere, *hidden]))
    found = compared.set_index(["task", "against", "trajectories"])["difference"].to_dict()
    expected = {("t", 1): 4.0, ("t", 2): 3.0, ("u", 1): 0.0, ("u", 2): 0.0}
    assert found == {(task, "no_context", n): value for (task, n), value in expected.items()}


def test_a_baseline_without_common_units_hides_no_other():
    """The first was evaluated with other seeds alone."""
    tables = [
        make_records([[5.0]]),
        make_records([[1.0]], "dt", agent="a", seed=7),
        make_records([[2.0]], "dt", agent="b"),
    ]
    compared = statistics.compare(pd.concat(tables))
    assert compared[["baseline", "difference"]].to_numpy().tolist() == [["b", 3.0]]


def test_interquartile_mean_is_the_mean_of_the_middle_half():
    # The middle halves of the two seeds have the means 1.5 and 4.5, that of all units 3.5.
    values = np.array([-1e9, 1.0, 2.0, 6.0, 3.0, 4.0, 5.0, 1e9])
    estimate, low, high = statistics.interval(
        pd.Series(values), pd.Series(np.repeat([0, 1], 4)), iqm=True
    )
    assert estimate == np.mean([2.0, 3.0, 4.0, 5.0])
    # Without a seed, the middle half of the other's four units; Student's t of one degree is 12.7.
    half = 12.706204736 * abs(np.mean([1.0, 2.0]) - np.mean([4.0, 5.0])) / 2
    assert (low, high) == pytest.approx((estimate - half, estimate + half))


@pytest.mark.parametrize(
    ("units", "low", "high"),
    [
        ([0, 1, 1], 0, 1),  # no 1 is drawn in 1/27 of the resamples, more than 2.5%
        ([0, 0, 1], 0, 1),
        ([0, 0, 0, 1, 1, 1], 1 / 6, 5 / 6),  # no 1 in 1/64, at most one in 7/64
    ],
)
def test_an_interval_of_one_seed_leaves_out_2_5_percent_of_the_resamples_at_each_end(
    units, low, high, monkeypatch
):
    # So many that a share's standard deviation is below 0.0014, a ninth of 1/27 - 0.025.
    monkeypatch.setattr(statistics, "RESAMPLES", 20_000)
    found = interval(units, np.zeros(len(units)))
    assert found == pytest.approx((np.mean(units), low, high))


def test_extreme_units_of_one_seed_do_not_move_its_interquartile_mean(monkeypatch):
    """Of 40 resampled units, the middle 20 hold as many ones as are above the tenth."""
    monkeypatch.setattr(statistics, "RESAMPLES", 20_000)
    units = pd.Series([-1e9, *[0.0] * 19, *[1.0] * 19, 1e9])
    # At most 13 of 40 are ones, or 1e9, in 1.92% of the resamples, and at most 14 in 4.03%.
    expected = 0.5, (14 - 10) / 20, (26 - 10) / 20
    seeds = pd.Series(np.zeros(40))
    assert statistics.interval(units, seeds, iqm=True) == pytest.approx(expected)


def test_an_interquartile_mean_that_no_seed_changes_is_not_certain(monkeypatch):
    """The seeds differ, but their middle halves do not; and where means are equal, these may."""
    monkeypatch.setattr(statistics, "RESAMPLES", 20_000)

    def iqm(units, seeds):
        return statistics.interval(pd.Series(units), pd.Series(seeds), iqm=True)

    # The middle 12 of 24 resampled units hold as many ones as there are above six: at least two in
    # 3.5% of the resamples, three in 1.2%.
    units = [*[0.0] * 11, 1.0, *[0.0] * 9, *[1.0] * 3]
    assert iqm(units, np.repeat([0, 1], 12)) == pytest.approx((0.0, 0.0, (8 - 6) / 12))
    # Means of 2, but middle halves of 0 and 2: Student's t of one degree is 12.7.
    units = [0.0, 0.0, 0.0, 8.0, 2.0, 2.0, 2.0, 2.0]
    estimate, low, high = iqm(units, np.repeat([0, 1], 4))
    assert (low, high) == pytest.approx((estimate - 12.706204736, estimate + 12.706204736))


def test_probability_of_improvement_counts_ties_half():
    tables = [
        make_records([[1.0], [2.0], [3.0], [4.0]]),
        make_records([[0.0], [2.0], [9.0], [1.0]], "no_context"),
    ]
    compared = statistics.compare(pd.concat(tables)).iloc[0]
    assert compared["improvement"] == (1 + 0.5 + 0 + 1) / 4
    assert (
        0
        <= compared["improvement_low"]
        <= compared["improvement"]
        <= compared["improvement_high"]
        <= 1
    )


def test_shares_end_at_0_and_1():
    tables = [
        make_records([[won], [1.0]], condition, seed=seed)
        for seed, won in ((0, 1.0), (1, 3.0), (2, 3.0))
        for condition in ("own", "no_context")
    ]
    tables[0]["return"] = 0.0
    compared = statistics.compare(pd.concat(tables)).iloc[0]
    assert compared["improvement_low"] == 0 < compared["improvement"] < compared["improvement_high"]
    assert compared["improvement_high"] <= 1 and compared["high"] > 0.5


@pytest.mark.parametrize("found", [0, 3, 8])
def test_a_share_of_one_seed_has_wilsons_interval(found):
    returns = np.repeat([[9.0], [1.0]], [found, 8 - found], axis=0)
    row = statistics.summarize(make_records(returns).assign(best_return=10.0)).iloc[0]
    expected = binomtest(found, 8).proportion_ci(method="wilson")
    assert row["found"] == found / 8
    assert (row["found_low"], row["found_high"]) == pytest.approx((expected.low, expected.high))
    assert row["found_low"] < row["found_high"]


@pytest.mark.parametrize("found", [0, 3, 8])
def test_a_share_that_all_seeds_have_is_not_certain(found):
    """Between seeds that do not differ Student's interval has no width; units tell how much."""
    returns = np.repeat([[9.0], [1.0]], [found, 8 - found], axis=0)
    tables = [make_records(np.roll(returns, seed, axis=0), seed=seed) for seed in range(3)]
    row = statistics.summarize(pd.concat(tables).assign(best_return=10.0)).iloc[0]
    expected = binomtest(3 * found, 24).proportion_ci(method="wilson")
    assert (row["seeds"], row["found"]) == (3, found / 8)
    assert (row["found_low"], row["found_high"]) == pytest.approx((expected.low, expected.high))


def test_what_rounding_tells_apart_is_one_share_and_shares_that_differ_have_students_interval():
    tenths = [0.1, 0.2, 0.3, 0.4]
    # From Python 3.12 on `sum` corrects for rounding.
    assert reduce(operator.add, tenths) != reduce(operator.add, tenths[::-1])
    for last, expected in (
        (0.1, binomtest(2, 8).proportion_ci(method="wilson")),
        (0.14, (0.255 - 12.706204736 * 0.005, 0.255 + 12.706204736 * 0.005)),  # of one degree
    ):
        rates = {0: tenths, 1: [*tenths[:0:-1], last]}
        tables = [
            make_records([[0.0]] * 4, seed=seed).assign(repeat_miss_rate=of_seed)
            for seed, of_seed in rates.items()
        ]
        row = statistics.summarize(pd.concat(tables)).iloc[0]
        found = row["repeat_miss_rate_low"], row["repeat_miss_rate_high"]
        assert found == pytest.approx(tuple(expected))


def test_a_goal_is_found_by_the_first_attempt_that_earns_half_of_the_best():
    records = make_records([[1.0, 6.0, 0.0], [4.0, 4.9, 5.0]]).assign(best_return=10.0)
    assert statistics.summarize(records)["found"].tolist() == [0.0, 0.5, 1.0]
    assert statistics.summarize(records.assign(best_return=np.nan))["found"].isna().all()


def test_the_best_of_n_is_of_n_attempts_or_unknown():
    """`distractors` are evaluated at some n alone: the best of these few is no best of n."""
    attempts = [[4.0, 1.0, 9.0, 2.0]]
    some = make_records(attempts, "distractors")
    records = pd.concat([make_records(attempts), some[some["trajectories"].isin([1, 4])]])
    summary = statistics.summarize(records.assign(best_return=8.0))
    best = summary.set_index(["condition", "trajectories"])["best_mean"]
    assert list(best["own"]) == [4.0, 4.0, 9.0, 9.0]
    assert best["distractors", 1] == 4.0 and np.isnan(best["distractors", 4])
    found = summary.set_index(["condition", "trajectories"])["found"]
    assert found["own", 4] == 1.0 and np.isnan(found["distractors", 4])


def test_whether_a_goal_is_found_depends_on_no_other_agent():
    """Agents that were trained on other data have another best return."""
    alone = make_records([[40.0]], agent="few").assign(best_return=60.0)
    beside = make_records([[80.0]], agent="many").assign(best_return=100.0)
    unknown = make_records([[40.0]], "dt", agent="dt")
    found = statistics.summarize(pd.concat([alone, beside, unknown])).set_index("agent")["found"]
    # The baseline does not know the best return: the largest that is known decides.
    assert found.to_dict() == {"few": 1.0, "many": 1.0, "dt": 0.0}


def test_a_best_return_that_is_not_known_is_that_of_the_same_hidden_task():
    known = make_records([[6.0], [60.0]]).assign(best_return=[10.0, 100.0])
    unknown = make_records([[6.0], [60.0]], "dt", agent="dt")
    summary = statistics.summarize(pd.concat([known, unknown]))
    assert summary["found"].tolist() == [1.0, 1.0]
    assert summary["best_return"].tolist() == [55.0, 55.0]
    alone = statistics.summarize(known.assign(best_return=[10.0, np.nan]))
    assert alone[["found", "best_return"]].isna().all(axis=None)


def test_what_is_known_of_some_units_alone_is_summarized_over_these():
    """An attempt has a repeat miss rate if it tries something and has missed before."""
    rates = [np.nan, 0.25, 0.75, np.nan]
    records = make_records([[1.0], [2.0], [4.0], [90.0]]).assign(repeat_miss_rate=rates)
    (row,) = statistics.summarize(records).to_dict("records")
    assert (row["repeat_miss_rate"], row["repeat_miss_units"], row["units"]) == (0.5, 2, 4)
    expected = binomtest(1, 2).proportion_ci(method="wilson")  # of two units with the mean 0.5
    assert row["repeat_miss_rate_low"] == pytest.approx(expected.low)
    assert row["repeat_miss_rate_high"] == pytest.approx(expected.high)
    assert row["iqm"] == 3.0  # the returns in the middle are 2 and 4


def test_where_nothing_was_ever_earned_nobody_has_found_it():
    summary = statistics.summarize(make_records([[0.0, 0.0]]).assign(best_return=0.0))
    assert summary["found"].isna().all()


def test_the_last_attempts_of_each_condition_have_their_mean():
    """Conditions may end at different attempts."""
    tables = [
        make_records([[1.0, 3.0, 2.0], [2.0, 0.0, 5.0]]),
        make_records([[7.0]], "distractors"),
    ]
    last = statistics.last_returns(pd.concat(tables))
    assert last == {("own", 3): 3.5, ("distractors", 1): 7.0}


def test_episodes_of_other_lengths_are_not_compared():
    """Where a length is not known, as in records of earlier versions, they are."""
    own, dt = make_records([[1.0, 2.0]]), make_records([[3.0, 4.0]], "dt", agent="dt")
    for steps, compared in ((12, True), (np.nan, True), (1000, False)):
        found = statistics.compare(pd.concat([own, dt.assign(episode_steps=steps)]))
        assert found["difference"].tolist() == ([-2.0, -2.0] if compared else [])
