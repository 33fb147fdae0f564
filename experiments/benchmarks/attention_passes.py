"""Runs attention forward, or forward and backward, and counts the FLOPs that either takes."""

from __future__ import annotations

from collections.abc import Callable

import jax

DIRECTIONS = {"forward": 4, "both": 14}
"""FLOPs of each pass over heads * head_dim * useful pairs of tokens: 2 products forward, 5
backward."""


def useful_flops(tokens: int, heads: int, head_dim: int, direction: str) -> float:
    """Returns the FLOPs that causal attention cannot do without."""
    return DIRECTIONS[direction] * heads * head_dim * tokens * (tokens + 1) / 2


def directed(attend: Callable, direction: str) -> Callable:
    """Returns attention as a function of (query, key, value, cotangent), with or without gradients.

    Args:
        attend: attention of query, key and value.
        direction: "forward": returns the output. "both": returns the output and the gradients.
    """

    def forward(query: jax.Array, key: jax.Array, value: jax.Array, _: jax.Array) -> jax.Array:
        return attend(query, key, value)

    def both(query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array) -> tuple:
        output, pull = jax.vjp(attend, query, key, value)
        return output, *pull(cotangent)

    return forward if direction == "forward" else both
