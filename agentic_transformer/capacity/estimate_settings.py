"""Says which settings of a model the memory estimate is for.

This module has no heavy imports, so that a command line can be checked against it.
"""

from __future__ import annotations

from typing import Any

from agentic_transformer.config import ModelConfig

BACKBONES = ("blockwise", "dense", "memory_efficient", "ring")
"""Backbones whose memory and times are estimated.

"all_gather" is missing: each device holds all keys and values, and no step hides a transfer.
"""

KERNELED = ("ring", "blockwise")
"""Backbones that call a kernel for each block of keys."""

FUSED = {"splash": "tpu", "cudnn": "gpu"}
"""Platforms of fused kernels, by name. Each runs on its own platform alone."""


def assumed_settings(model: ModelConfig) -> dict[str, Any]:
    """Returns the settings that the memory estimate assumes in place of a model's own.

    The estimate's coefficients are fitted to scanned, rematerialised layers in bfloat16 whose
    feedforward network is 4 times as wide as the model, and is cut into the chunks of queries that
    the attention takes. The kernel is the one that is chosen for the platform: its fused one,
    wherever that can be called. An empty dict means that the estimate is for this very model.

    Args:
        model: the model's settings.
    """
    kerneled = model.attention in KERNELED
    assumed = {
        "dtype": "bfloat16",
        "remat": "full" if model.remat == "full" else "block",
        "scan_layers": True,
        "feedforward": 4,
        "blockwise_feedforward": kerneled,
    }
    if kerneled and model.kernel not in FUSED:
        assumed["kernel"] = "auto"
    return {name: value for name, value in assumed.items() if getattr(model, name) != value}
