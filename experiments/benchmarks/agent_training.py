"""Measures training against the rate of a matrix product, and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax

from agentic_transformer.config import AgentConfig, CollectCommand, ModelConfig, TrainConfig
from agentic_transformer.contexts.loader import ChainLoader
from agentic_transformer.contexts.training_data import training_data
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training import loop, sharding
from experiments import collect
from experiments.benchmarks import agent_models as models
from experiments.benchmarks.agent_profile import shares
from experiments.benchmarks.cpu_timing import least_cpu_seconds, product_rate

_WAITED_STEPS = 200


def training() -> list[dict[str, Any]]:
    """Measures the utilisation and the shares of a step's time for two agents.

    Utilisation is the model's FLOP rate over that of a matrix product. The agents are the
    quickstart's, and one for walker with 32 trajectories of 1,000 steps in its context.
    """
    walker = models.walker(32, ModelConfig(width=128, layers=3))
    return [
        _training_of("quickstart", models.quickstart(), 32, 20),
        _training_of("walker, 32 trajectories", walker, 1, 1),
    ]


def _training_of(name: str, spec: AgentSpec, rows: int, calls: int) -> dict[str, Any]:
    step, state, tokens = models.train_step(spec, rows, devices=1)
    compiled = step.lower(state, tokens).compile()

    def train() -> Any:
        nonlocal state
        state, metrics = compiled(state, tokens)
        return metrics

    rate, seconds = product_rate(), least_cpu_seconds(train, calls)
    utilisation = models.step_flops(spec, rows) / seconds / rate
    line = {
        "case": name,
        "tokens_a_step": rows * models.context_tokens(spec),
        "seconds": seconds,
    }
    return line | {"utilisation": utilisation} | shares(train, compiled.as_text())


def waiting() -> list[dict[str, Any]]:
    """Measures the share of wall time in which the quickstart's step waits for its batch."""
    command, agent, train = CollectCommand(), AgentConfig(), TrainConfig()
    collect.main(command)
    data = training_data(command.task, command.data)
    spec = replace(models.quickstart(), normalizer=data.normalizer(agent.reward_scale))
    loader = ChainLoader(data, agent, spec.layout(), 0, train.batch)
    step, state, first = models.train_step(spec, train.batch, devices=1)
    mesh = first.weight.sharding.mesh
    state, _ = step(state, first)
    batches = loop.prefetch(
        lambda number: sharding.shard_batch(loader(number), mesh, "zigzag"), 0, _WAITED_STEPS
    )
    waits: list[float] = []
    start = time.perf_counter()
    for tokens in _timed(batches, waits):
        state, metrics = step(state, tokens)
        jax.block_until_ready(metrics)
    seconds = time.perf_counter() - start
    return [
        {
            "case": "quickstart",
            "steps": _WAITED_STEPS,
            "seconds": seconds,
            "share_of_waiting": sum(waits) / seconds,
        }
    ]


def _timed(batches: Iterator[Any], waits: list[float]) -> Iterator[Any]:
    """Yields the batches and adds to `waits` the seconds that each took to come."""
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waits.append(time.perf_counter() - asked)
        if batch is None:
            return
        yield batch
