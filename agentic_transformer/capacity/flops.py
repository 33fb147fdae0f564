"""FLOPs of training, and how they grow with the context (arXiv 2310.01889, appendix D)."""

from __future__ import annotations

from agentic_transformer.config import ModelConfig
from agentic_transformer.ring.overlap import MATRIX_FLOPS

BACKWARD = 2
"""Times the forward pass: one product for the gradient of each of its factors."""


def layer_products(model: ModelConfig, tokens: float) -> float:
    """FLOPs of a layer's products with weights, forward; 24 s h^2 where the feedforward network is
    4 times as wide.
    """
    return MATRIX_FLOPS * (4 + 2 * model.feedforward) * model.width**2 * tokens


def layer_attention(
    model: ModelConfig, queries: float, keys: float, *, causal: bool = True
) -> float:
    """FLOPs of a layer's attention, forward; 4 s^2 h of a sequence to itself, half of them seen
    through a causal mask.
    """
    return 2 * MATRIX_FLOPS * queries * keys * model.width * (0.5 if causal else 1)


def model_flops(model: ModelConfig, context: float, *, causal: bool = True) -> float:
    """FLOPs of training on one sequence, forward and backward, what is computed again not counted;
    of the layers alone.
    """
    forward = layer_products(model, context) + layer_attention(
        model, context, context, causal=causal
    )
    return (1 + BACKWARD) * model.layers * forward


def growth(model: ModelConfig, before: float, after: float) -> float:
    """How many times more a data set costs in contexts of `after` tokens than of `before`.

    The paper's (6 h + s2) / (6 h + s1), of attention without a mask, for a feedforward network 4
    times as wide.
    """
    of_weights = layer_products(model, 1) / layer_attention(model, 1, 1, causal=False)
    return (of_weights + after) / (of_weights + before)
