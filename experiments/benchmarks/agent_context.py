"""Measures training on 128 trajectories of 1,000 steps: memory, and steps on a ring of eight."""

from __future__ import annotations

import time
from typing import Any

from agentic_transformer.config import ModelConfig
from experiments.benchmarks import agent_models as models
from experiments.benchmarks.cpu_timing import product_rate

DEVICES = 8
_STEPS = 10


def _describe(tokens: str, backbone: str) -> Any:
    """Describes an agent for walker with one layer and one head of 32 entries.

    At 128,000 tokens, attention alone is 3.7 TFLOP a step.
    """
    model = ModelConfig(width=32, layers=1, attention=backbone, tokens=tokens)
    return models.walker(128, model)


def memory() -> list[dict[str, Any]]:
    """Reads the temporary memory of a training step on each device, by compilation alone."""
    rows = []
    for tokens in ("packed", "separate"):
        for backbone, devices in (("ring", DEVICES), ("blockwise", 1)):
            spec = _describe(tokens, backbone)
            step, state, batch = models.train_step(spec, 1, devices)
            temporary = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
            row = {
                "tokens": tokens,
                "context": models.context_tokens(spec),
                "backbone": backbone,
                "devices": devices,
            }
            rows.append(row | {"megabytes_a_device": temporary / 1e6})
    return rows


def steps() -> list[dict[str, Any]]:
    """Takes ten training steps on the ring, with packed tokens, on one batch."""
    spec = _describe("packed", "ring")
    step, state, batch = models.train_step(spec, 1, DEVICES)
    compiled = step.lower(state, batch).compile()
    rate, rows = product_rate(), []
    for number in range(1, _STEPS + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = compiled(state, batch)
        loss = float(metrics["loss"])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        utilisation = models.step_flops(spec, 1) / cpu / rate
        rows.append(
            {
                "step": number,
                "loss": loss,
                "seconds": wall,
                "cpu_seconds": cpu,
                "utilisation": utilisation,
            }
        )
        print(f"step {number} of {_STEPS}: loss {loss:.4f}, {wall:.0f} s", flush=True)
    return rows
