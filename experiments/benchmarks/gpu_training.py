"""Measures training steps of `conf/model/at_350m` on one accelerator (suite `gpu`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

from agentic_transformer.capacity.flops import model_flops
from agentic_transformer.capacity.hardware import GIB
from agentic_transformer.config import ModelConfig, TrainCommand
from agentic_transformer.models.spec import AgentSpec
from experiments.benchmarks import agent_models as models
from experiments.benchmarks.gpu_timing import (
    Clock,
    is_small,
    measure_row,
    product_call,
    time_in_turn,
)
from experiments.cli import command_line

_ROW_SECONDS = {2: 5, 4: 10, 16: 20, 32: 45}
"""Seconds that a row may take, by trajectories; it is left out if the part has less."""


def rows(clock: Clock) -> Iterator[dict[str, Any]]:
    """Yields seconds of a step on one sequence, its share of the rate of products, and memory.

    The walker's sizes, trajectories of 1,000 steps of four tokens. Sequences grow, so that the
    device's peak of memory is that of the row.
    """
    for spec in _specs():
        row = {"tokens": models.context_tokens(spec)}
        seconds = _ROW_SECONDS[spec.agent.trajectories]
        yield measure_row(clock, seconds, row, partial(_measure, spec))


def programs() -> Iterator[jax.stages.Lowered]:
    """Yields the programs of all rows."""
    for spec in _specs():
        step, *arguments = models.train_step(spec, rows=1, devices=1)
        yield step.lower(*arguments)


def _specs() -> Iterator[AgentSpec]:
    """Yields the agents that are trained."""
    if is_small():
        model = ModelConfig(width=16, layers=1, tokens="separate", head="mse", dtype="bfloat16")
        yield models.walker(2, model, steps=4)
    else:
        yield from (models.walker(count, at_350m()) for count in (4, 16, 32))


def at_350m() -> ModelConfig:
    """Returns the settings of `model=at_350m`, as a command line gets them."""
    line = command_line.read("train", TrainCommand, ["model=at_350m"], False)
    return line.make_settings(line.job_overrides[0]).model


def _measure(spec: AgentSpec) -> dict[str, Any]:
    step, state, batch = models.train_step(spec, rows=1, devices=1)
    program = step.lower(state, batch).compile()

    def train() -> Any:
        nonlocal state
        state, metrics = program(state, batch)
        return metrics

    product, flops = product_call()
    timings = time_in_turn({"step": train, "product": product}, rounds=3)
    rate = model_flops(spec.model, models.context_tokens(spec)) / timings.median("step")
    product_rate = flops / timings.median("product")
    found = program.memory_analysis()
    return timings.row("step") | {
        "teraflops": rate / 1e12,
        "product_teraflops": product_rate / 1e12,
        "of_product_rate": rate / product_rate,
        "arguments_gib": found.argument_size_in_bytes / GIB,
        "temporary_gib": found.temp_size_in_bytes / GIB,
        "peak_gib": _peak_bytes() / GIB,
    }


def _peak_bytes() -> float:
    """Returns the most memory of the device that this process has used; NaN if it does not say."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", float("nan"))
