"""Jaco's controller moves the hand to the goal, and keeps its own actions beside the noisy ones."""

import numpy as np

import datasets
import envs
from datasets.collectors import collector_class
from tests.seeds import rng

EPISODES, LENGTH, REPEAT = 10, 120, 5


def test_the_hand_goes_to_the_goal_and_stays():
    tasks = envs.collection_tasks("jaco_goal", EPISODES, rng(0))
    environments = envs.make_vec("jaco_goal", EPISODES, horizon=LENGTH)
    _, info = environments.reset(seed=list(range(EPISODES)), options={"tasks": tasks})
    actor = collector_class("pd", "jaco_goal")(tasks, rng(1), LENGTH)
    states = []
    for step in range(LENGTH):
        if step % REPEAT == 0:
            noisy = actor.act(step, info["physics"])
        # Its own actions, so that what happens is no matter of noise.
        *_, info = environments.step(actor.demonstrator.astype(np.float32))
        states.append(info["physics"])
    at_the_end = np.stack(states[-10:], axis=1)
    # Rewards are full within 5 cm of a goal. Where the arm starts badly, the episode is too short.
    own = [
        datasets.relabel(state, task).mean() for state, task in zip(at_the_end, tasks, strict=True)
    ]
    moved = tasks[1:] + tasks[:1]
    others = [
        datasets.relabel(state, task).mean() for state, task in zip(at_the_end, moved, strict=True)
    ]
    # From three of the ten starts, one goal in three is not reached in time, from the others all.
    assert np.mean(np.array(own) > 0.9) >= 0.7 and np.mean(others) < 0.5
    assert np.abs(noisy).max() <= 1 and (noisy != actor.demonstrator).any()


def test_single_tasks_have_their_corner_as_the_goal():
    task = envs.task("jaco_reach_top_left")
    corner, goal = (
        collector_class("pd", each)([each], rng(0), LENGTH)
        for each in (task, envs.task("jaco_goal", goal=(-0.09, 0.09)))
    )
    start = envs.make_vec(task, 1).reset(seed=3)[1]["physics"]
    for actor in (corner, goal):
        actor.act(0, start)
    np.testing.assert_array_equal(corner.demonstrator, goal.demonstrator)
    assert np.abs(corner.demonstrator).max() <= 1 and not corner.demonstrator[0, 6:].any()
