"""Streams of different purposes share nothing, even with equal or zero seeds."""

import itertools

import envs
from agentic_transformer.random_streams import stream

PURPOSES = ["training tasks", "chains", "evaluation tasks", "prompts", "starts"]


def test_no_two_streams_coincide():
    seeds = [(), (0,), (0, 0), (0, 0, 0), (1,), (0, 1), (1, 0)]
    drawn = [
        stream(purpose, *seed).integers(2**62)
        for purpose, seed in itertools.product(PURPOSES, seeds)
    ]
    assert len(set(drawn)) == len(drawn)


def test_the_same_stream_is_the_same_everywhere():
    # The value fixes the streams over versions: goals of published evaluations stay what they were.
    assert (
        stream("chains", 0, 7).integers(2**32)
        == stream("chains", 0, 7).integers(2**32)
        == 1021664017
    )


def test_training_and_evaluation_goals_differ():
    train = envs.training_tasks("point_mass_goal", 300, stream("training tasks", 0))
    test = envs.draw_tasks("point_mass_goal", 300, stream("evaluation tasks", 0, 0))
    assert not set(train) & set(test)
