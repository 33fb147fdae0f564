"""Longer steps equal those of an environment that holds its actions, and sums by hand."""

from dataclasses import replace

import numpy as np
import pytest
from fabricated import make_episode

import datasets
import envs
from datasets.collection import start_seed
from tests.seeds import rng
from tests.tolerances import TINY, rounding, unit

TASK = envs.task("point_mass_goal", goal=(0.1, 0.1))
EPISODES = 6
EXECUTED = 4 * unit()
"""Both keep positions and velocities below 1, and the actions that led to them, as float32.

A reward is 0.1 ** x**2, where x counts margins of 0.045; its slope in x is at most 1.31.
"""


def collected(folder, action_repeat):
    buffer = datasets.buffer_folder(folder, "point_mass_goal", "random")
    datasets.collect(
        "point_mass_goal", buffer, episodes=EPISODES, action_repeat=action_repeat, progress=False
    )
    return datasets.Store(datasets.build_cache(buffer, progress=False))


def test_trajectories_equal_those_of_an_environment_of_the_same_repeat(tmp_path):
    view = datasets.ActionRepeatView(collected(tmp_path, 4), 4, horizon=2)
    assert view.lengths.tolist() == [2] * EPISODES
    trajectories, reward = view.load(np.arange(EPISODES)), view.rewards(TASK)
    env = envs.make_vec(TASK, EPISODES, action_repeat=4, horizon=2)
    observation, _ = env.reset(seed=[start_seed(0, index) for index in range(EPISODES)])
    for step in range(2):
        np.testing.assert_allclose(
            trajectories.observation[:, step], observation, rtol=0, atol=EXECUTED
        )
        observation, paid, *_ = env.step(trajectories.action[:, step])
        np.testing.assert_allclose(
            reward[:, step], paid, rtol=0, atol=4 * (2 * unit() + EXECUTED * 1.31 / 0.045)
        )
    with pytest.raises(ValueError, match="was collected with action_repeat=4"):
        collected(tmp_path, 1)


def test_actions_that_varied_are_averaged(tmp_path):
    store = collected(tmp_path, 1)
    view = datasets.ActionRepeatView(store, 5)
    whole, found = store.load([1, 4]), view.load([1, 4])
    assert view.lengths.tolist() == [2] * EPISODES  # of 12 steps, the last two are left out
    for row in range(2):
        for step in range(2):
            np.testing.assert_array_equal(
                found.observation[row, step], whole.observation[row, 5 * step]
            )
            mean = whole.action[row, 5 * step : 5 * step + 5].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(
                found.action[row, step], mean, rtol=0, atol=rounding(6)
            )  # of five up to 1
            np.testing.assert_allclose(
                view.rewards(TASK, [1, 4])[row, step],
                store.rewards(TASK, [1, 4])[row, 5 * step : 5 * step + 5].sum(),
                rtol=rounding(6),
                atol=5 * TINY,
            )


def test_a_held_action_keeps_every_bit_and_the_demonstrators_is_the_mean_too(tmp_path):
    """The mean of seven equal numbers in float32 may be another number."""
    data, repeat, steps = rng(0), 7, 30
    held = data.uniform(-1, 1, (steps, 6)).astype(np.float32)
    rows = np.repeat(held, repeat, axis=0)
    assert (rows.reshape(steps, repeat, 6).mean(axis=1) != held).any()
    episode = make_episode(steps * repeat)
    demonstrated = np.concatenate([np.zeros((1, 6), np.float32), rows[::-1]])
    demonstrated[-1] *= 0.5  # the last of a step that was not held
    episode.action[1:] = rows
    buffer = tmp_path / "walker" / "pd" / "buffer"
    datasets.write_episode(buffer, 0, replace(episode, extra={"demonstrator": demonstrated}))
    view = datasets.ActionRepeatView(
        datasets.Store(datasets.build_cache(buffer, progress=False)), repeat
    )
    np.testing.assert_array_equal(view.load([0]).action[0], held)
    found = view.demonstrator([0])[0]
    np.testing.assert_array_equal(found[:-1], held[:0:-1])
    mean = held[0].astype(np.float64) * (6 + 0.5) / 7
    np.testing.assert_allclose(found[-1], mean, rtol=0, atol=rounding(8))


@pytest.mark.parametrize(("repeat", "horizon", "row"), [(1, None, 12), (5, None, 10), (4, 2, 8)])
def test_the_observation_after_the_last_step_is_a_row_of_the_episode(
    tmp_path, repeat, horizon, row
):
    """Also where the budget holds nothing in memory."""
    store = collected(tmp_path, 1)
    paths = sorted(tmp_path.rglob("buffer/*.npz"))
    expected = np.stack([datasets.read_episode(path).observation[row] for path in paths])
    cache = datasets.build_cache(paths[0].parent, progress=False)
    for kept in (store, datasets.Store(cache, budget=0)):
        view = datasets.ActionRepeatView(kept, repeat, horizon)
        np.testing.assert_array_equal(view.last_observation([4, 1]), expected[[4, 1]])
        if row == 12:
            np.testing.assert_array_equal(kept.last_observation([4, 1]), expected[[4, 1]])


def test_a_view_of_some_episodes_has_these_and_their_rewards_of_the_mode_that_is_asked_for(
    tmp_path,
):
    collected(tmp_path, 1)
    (buffer,) = {path.parent for path in tmp_path.rglob("buffer/*.npz")}
    store = datasets.Store(datasets.build_cache(buffer, progress=False), episodes=4, seed=1)
    view = datasets.ActionRepeatView(store, 3)
    assert (view.episodes, view.cached, len(view.lengths)) == (4, EPISODES, 4)
    stored = store.rewards(TASK, mode="stored")
    assert (stored != store.rewards(TASK)).any()
    sums = stored.reshape(4, 4, 3).sum(axis=2, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(view.rewards(TASK, mode="stored"), sums)


def test_steps_as_they_are(tmp_path):
    store = collected(tmp_path, 1)
    view = datasets.ActionRepeatView(store)
    for found, expected in zip(view.load([0, 3]), store.load([0, 3]), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(view.rewards(TASK), store.rewards(TASK))


def test_trajectories_that_are_too_short_are_refused(tmp_path):
    store = collected(tmp_path, 1)
    said = "horizon=3 with data.action_repeat=5: .* have 12 steps; allowed: whole numbers, 1 to 2"
    with pytest.raises(ValueError, match=said):
        datasets.ActionRepeatView(store, 5, horizon=3)
    for repeat in (13, 0, -1, 1.5, 2.0, "2"):
        said = f"action_repeat={repeat}: .* have 12 steps; allowed: whole numbers, 1 to 12"
        with pytest.raises(ValueError, match=said):
            datasets.ActionRepeatView(store, repeat)
    for horizon in (0, 2.5, "2"):
        said = f"horizon={horizon}: .* have 12 steps; allowed: whole numbers, 1 to 12"
        with pytest.raises(ValueError, match=said):
            datasets.ActionRepeatView(store, horizon=horizon)
