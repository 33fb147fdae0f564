"""What is modelled.

Free of heavy imports, so that settings can be checked before anything slow starts.
"""

from __future__ import annotations

from typing import Any

from agentic_transformer.config import ModelConfig

BACKBONES = ("blockwise", "dense", "memory_efficient", "ring")
"""Of "all_gather" the memory and the times are not: each device holds the keys and values of all,
and no step hides another."""


def instead(model: ModelConfig) -> dict[str, Any]:
    """Settings that the estimate of memory takes in place of a model's own; none if it is of this
    model.

    Its numbers are fitted to rolled, rematerialised layers in bfloat16, their feedforward networks
    as wide as the papers', cut where the attention's queries are.
    """
    chunks = model.attention in ("ring", "blockwise")
    taken = {
        "dtype": "bfloat16",
        "remat": "block",
        "scan_layers": True,
        "feedforward": 4,
        "blockwise_feedforward": chunks,
    }
    return {name: value for name, value in taken.items() if getattr(model, name) != value}
