"""Measures a step of acting beside the time to read its cache once (suite `gpu`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from agentic_transformer.config import ModelConfig
from experiments.benchmarks import agent_models as models
from experiments.benchmarks.gpu_timing import Clock, copy_call, is_small, measure_row, time_in_turn

_ENVIRONMENTS = 64
_ROW_SECONDS = 12


def rows(clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields milliseconds of a step, and their ratio to the time to read the cache.

    Width 128, 3 layers, the walker's sizes, float32, contexts of trajectories of 1,000 steps that
    are full but for one token. Reading takes the cache's bytes at the rate of a copy in the same
    rounds.
    """
    steps = 10 if is_small() else 1000
    for trajectories in (2,) if is_small() else (1, 32, 128):
        row = {"trajectories": trajectories, "environments": _ENVIRONMENTS}
        yield measure_row(clock, _ROW_SECONDS, row, partial(_measure, trajectories, steps))


def _measure(trajectories: int, steps: int) -> dict[str, Any]:
    model = ModelConfig(width=128, layers=3)
    policy = models.policy(models.walker(trajectories, model, steps))
    context = policy.new_context(_ENVIRONMENTS, trajectories)
    capacity = models.context_tokens(policy.spec)
    context = replace(context, position=capacity - 1)
    observation = np.zeros((_ENVIRONMENTS, policy.spec.observation_size))
    to_go = np.ones(_ENVIRONMENTS)
    key = jax.random.key(0)

    def act() -> Any:
        nonlocal context
        action, after = policy.act(context, to_go, observation, steps - 1, key, 1.0, 1.0)
        context = replace(after, position=capacity - 1)
        return action

    copy, copied = copy_call()
    timings = time_in_turn({"act": act, "copy": copy})
    size = sum(array.nbytes for layer in context.cache for array in layer)
    read = size * timings.median("copy") / copied
    return (
        {"tokens": capacity}
        | timings.row("act")
        | {
            "cache_gigabytes": size / 1e9,
            "copy_gigabytes_a_second": copied / timings.median("copy") / 1e9,
            "read_ms": 1e3 * read,
            "times_reading": timings.median("act") / read,
        }
    )
