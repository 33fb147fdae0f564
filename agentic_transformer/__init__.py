"""Exports the Agentic Transformer: an agent that learns in context, on exact ring attention.

Importing the package loads no jax. `train`, `load`, `Agent` and `ring_attention` are imported on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentic_transformer.name_clash import describe_clash

if TYPE_CHECKING:
    from agentic_transformer.agents.base import Agent
    from agentic_transformer.agents.load import load
    from agentic_transformer.evaluation.learning_curve import train
    from agentic_transformer.ring import ring_attention

__all__ = ["Agent", "load", "ring_attention", "train"]

_HOMES = {
    "Agent": "agentic_transformer.agents.base",
    "load": "agentic_transformer.agents.load",
    "ring_attention": "agentic_transformer.ring",
    "train": "agentic_transformer.evaluation.learning_curve",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: commands check their settings before jax is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except (ImportError, AttributeError) as error:
        if clash := describe_clash():
            raise ImportError(clash) from error
        raise


def __dir__() -> list[str]:
    """Returns the public names, for completion in a notebook."""
    return sorted(__all__)
