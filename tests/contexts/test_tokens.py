"""Packed tokens against a step-by-step rewrite in plain Python."""

import numpy as np
import pytest

from agentic_transformer.contexts.chain_tokens import encode_chains
from agentic_transformer.contexts.chains import Chains
from agentic_transformer.contexts.normalizer import Normalizer
from agentic_transformer.contexts.token_layouts import PackedTokens, SeparateTokens
from datasets import Trajectories
from tests.seeds import rng
from tests.tolerances import assert_close, rounding

ROWS, SLOTS, STEPS, OBSERVATION, ACTION = 2, 3, 4, 2, 1
NORMALIZER = Normalizer((0.5, -1.0), (2.0, 4.0), return_scale=10.0, reward_scale=3.0)
OPERATIONS = STEPS + 2
"""Rewards are taken off a return one by one, and what is left is scaled; an observation is shifted
and scaled."""


@pytest.fixture
def batch():
    data = rng(0)
    count = ROWS * SLOTS
    trajectories = Trajectories(
        observation=data.normal(size=(count, STEPS, OBSERVATION)).astype(np.float32),
        action=data.uniform(-1, 1, (count, STEPS, ACTION)).astype(np.float32),
    )
    reward = data.uniform(0, 1, (count, STEPS)).astype(np.float32)
    earned = reward.sum(axis=1).reshape(ROWS, SLOTS)
    chains = Chains(
        task=np.zeros((ROWS, SLOTS), np.int32),
        episode=np.arange(count, dtype=np.int32).reshape(ROWS, SLOTS),
        chain=np.array([[0, 0, 1], [0, 0, 0]], np.int32),
        target=np.stack([[*[earned[0, :2].max()] * 2, earned[0, 2]], [earned[1].max()] * 3]),
        weight=np.array([[0, 1, 1], [1, 1, 0]], np.float32),
    )
    return chains, trajectories, reward


@pytest.mark.parametrize("conditioned", [True, False])
def test_packed_tokens_match_a_rewrite_by_hand(batch, conditioned):
    chains, trajectories, reward = batch
    largest = np.abs([chains.target.max(), *trajectories.observation.ravel()]).max()
    tokens = encode_chains(
        PackedTokens(NORMALIZER, ACTION, STEPS, conditioned), chains, trajectories, reward
    )
    assert tokens.features.shape == (ROWS, SLOTS * STEPS, 1 + OBSERVATION + ACTION + 3)
    for row in range(ROWS):
        previous = None
        for slot in range(SLOTS):
            index = row * SLOTS + slot
            to_go = float(chains.target[row, slot])
            reached = not conditioned or reward[index].sum() >= chains.target[row, slot] * (
                1 - 1e-5
            )
            if slot == 0 or chains.chain[row, slot] != chains.chain[row, slot - 1]:
                previous = (np.zeros(ACTION), 0.0, 0.0)
            for step in range(STEPS):
                observation = (trajectories.observation[index, step] - [0.5, -1.0]) / [2.0, 4.0]
                expected = [
                    conditioned * to_go / 10,
                    *observation,
                    *previous[0],
                    previous[1] * 3,
                    previous[2],
                    float(step == 0),
                ]
                token = slot * STEPS + step
                assert_close(tokens.features[row, token], expected, OPERATIONS, largest)
                assert tokens.timestep[row, token] == step
                assert tokens.segment[row, token] == chains.chain[row, slot]
                assert tokens.weight[row, token] == chains.weight[row, slot]
                np.testing.assert_array_equal(
                    tokens.action[row, token], trajectories.action[index, step]
                )
                to_go -= float(reward[index, step])
                last = step == STEPS - 1
                previous = (
                    trajectories.action[index, step],
                    float(reward[index, step]),
                    float(last and reached),
                )


def test_separate_tokens_match_a_rewrite_by_hand(batch):
    """Return-to-go, observation, action, reward with completion, each with its one-hot.

    The second token predicts the action.
    """
    chains, trajectories, reward = batch
    largest = np.abs([chains.target.max(), *trajectories.observation.ravel()]).max()
    tokens = encode_chains(
        SeparateTokens(NORMALIZER, ACTION, STEPS, True), chains, trajectories, reward
    )
    assert tokens.features.shape == (ROWS, SLOTS * STEPS * 4, 1 + OBSERVATION + ACTION + 2 + 4)
    for row in range(ROWS):
        for slot in range(SLOTS):
            index = row * SLOTS + slot
            to_go = float(chains.target[row, slot])
            reached = reward[index].sum() >= chains.target[row, slot] * (1 - 1e-5)
            for step in range(STEPS):
                observation = (trajectories.observation[index, step] - [0.5, -1.0]) / [2.0, 4.0]
                action = trajectories.action[index, step]
                done = float(step == STEPS - 1 and reached)
                first = (slot * STEPS + step) * 4
                expected = [
                    [to_go / 10, 0, 0, 0, 0, 0, 1, 0, 0, 0],
                    [0, *observation, 0, 0, 0, 0, 1, 0, 0],
                    [0, 0, 0, *action, 0, 0, 0, 0, 1, 0],
                    [0, 0, 0, 0, float(reward[index, step]) * 3, done, 0, 0, 0, 1],
                ]
                assert_close(tokens.features[row, first : first + 4], expected, OPERATIONS, largest)
                assert (tokens.timestep[row, first : first + 4] == step).all()
                assert (tokens.segment[row, first : first + 4] == chains.chain[row, slot]).all()
                np.testing.assert_array_equal(
                    tokens.weight[row, first : first + 4], [0, chains.weight[row, slot], 0, 0]
                )
                np.testing.assert_array_equal(tokens.action[row, first + 1], action)
                to_go -= float(reward[index, step])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_trajectory_reaches_its_own_return_whatever_its_sign(sign):
    layout = PackedTokens(NORMALIZER, ACTION, 100, True)
    # Large and tiny ones, whose sums in float64 depend on their order
    reward = sign * (10 ** rng(0).uniform(-12, 1, (50, 100))).astype(np.float32)
    own = np.array([sum(map(float, rewards[::-1])) for rewards in reward])  # another order
    for target, reached in ((own, 1), (own - 0.01 * abs(own), 1), (own + 0.01 * abs(own), 0)):
        done = layout.completion(target, reward)
        np.testing.assert_array_equal(done[:, -1], reached)
        assert not done[:, :-1].any()
    assert layout.completion(np.zeros(1), np.zeros((1, 100)))[0, -1] == 1


def test_a_normalizer_standardises_and_leaves_constants_alone():
    rows = rng(0).normal(3, 5, (1000, 2))
    rows[:, 1] = 7
    normalizer = Normalizer.measure(rows, largest_return=12.0, reward_scale=2.0)
    standardised = normalizer.normalize(rows)
    bound = (
        2 * rounding(1000, np.float64) * np.abs(rows).max()
    )  # sums of 1,000 rows in float64; the deviation is near 5
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=bound)
    np.testing.assert_allclose(standardised.std(axis=0), [1, 0], atol=bound)
    assert normalizer.return_scale == 12
    np.testing.assert_array_equal(normalizer.normalize(np.array([[3.0, 8.0]]))[0, 1], 1)
    assert Normalizer.measure(rows, largest_return=0.0, reward_scale=2.0).return_scale > 0


def test_a_parameter_that_all_tasks_share_is_centred_alone():
    told = NORMALIZER.with_ranges(np.array([2.0, -1.0]), np.array([2.0, 3.0]))
    np.testing.assert_array_equal(told.normalize(np.array([0.5, -1.0, 2.5, 3.0])), [0, 0, 0.5, 1])


def test_a_normalizer_measures_small_deviations_from_large_means_in_float32():
    """An entry may vary by less than 1, such as a position in metres far from the origin."""
    rows = (1000 + 0.01 * rng(1).normal(size=(20_000, 1))).astype(np.float32)
    normalizer = Normalizer.measure(rows, largest_return=1.0, reward_scale=1.0)
    exact = rows.astype(np.float64)
    # Sums of 20,000 numbers in float64
    bound = 2 * rounding(20_000, np.float64) * 1000
    np.testing.assert_allclose(normalizer.observation_mean, exact.mean(axis=0), atol=bound, rtol=0)
    squares = ((exact - exact.mean(axis=0)) ** 2).mean(axis=0)
    np.testing.assert_allclose(normalizer.observation_std, np.sqrt(squares), atol=bound, rtol=0)


@pytest.mark.parametrize("kind", [PackedTokens, SeparateTokens])
def test_what_a_value_learns_is_earned_from_the_step_on(batch, kind):
    """As a share of the best return, at the tokens that predict actions; other tokens hold 0."""
    chains, trajectories, reward = batch
    layout = kind(NORMALIZER, ACTION, STEPS, False)
    assert encode_chains(layout, chains, trajectories, reward).rest_return is None
    tokens = encode_chains(layout, chains, trajectories, reward, with_rest_return=True)
    rest = tokens.rest_return.reshape(ROWS * SLOTS, STEPS, layout.tokens_per_step)
    for step in range(STEPS):
        expected = [sum(map(float, rewards[step:])) / 10 for rewards in reward]
        largest = reward.sum(axis=1).max() / 10
        assert_close(rest[:, step, layout.action_token], expected, OPERATIONS, largest)
    assert not np.delete(rest, layout.action_token, axis=2).any()


def test_an_entry_is_constant_if_it_changes_by_rounding_alone_in_whatever_unit():
    """Entries in small and large units, and entries that never change but for their last digit."""
    signal, last_digit = rng(3).normal(size=1000), rng(4).integers(-1, 2, 1000)
    changing = np.stack([5e-7 * signal, 1e9 * signal, 1000 + signal], 1).astype(np.float32)
    large = np.float32(1000)
    constant = np.stack(
        [np.zeros(1000), np.full(1000, 0.1), large + last_digit * np.spacing(large)], 1
    ).astype(np.float32)
    normalizer = Normalizer.measure(np.concatenate([changing, constant], 1), 1.0, 1.0)
    assert normalizer.observation_std[3:] == (1.0, 1.0, 1.0)
    scaled = normalizer.normalize(np.concatenate([changing, constant], 1))
    # Rows in float32; the last unit of 1000 is 6e-5.
    np.testing.assert_allclose(scaled[:, :3].std(axis=0), 1, rtol=1e-3)
    assert np.abs(scaled[:, 3:]).max() < 2 * np.spacing(large)
