"""Counts the FLOPs of training and their growth with the context (arXiv 2310.01889, appendix D).

Symbols of the paper: h is the width of the model, s the tokens of a sequence.
"""

from __future__ import annotations

from agentic_transformer.config import ModelConfig
from agentic_transformer.ring.overlap import MATRIX_FLOPS

BACKWARD = 2
"""FLOPs of the backward pass, divided by those of the forward pass.

A product of two factors has two gradients, and each of them is a product.
"""


def layer_products(model: ModelConfig, tokens: float) -> float:
    """Returns the forward FLOPs of a layer's products with weights.

    The paper's 24 s h^2 are those of a feedforward network that is 4 times as wide as the model.

    Args:
        model: shape of the layer.
        tokens: tokens that pass through it (s).
    """
    return MATRIX_FLOPS * layer_weights(model) * tokens


def layer_weights(model: ModelConfig) -> int:
    """Returns the weights of a layer's matrices: 12 h^2 if the feedforward network is 4 h wide."""
    # 4 h^2 of the attention (query, key, value, output), 2 f h^2 of the feedforward network
    return (4 + 2 * model.feedforward) * model.width**2


def layer_attention(
    model: ModelConfig, queries: float, keys: float, *, causal: bool = True
) -> float:
    """Returns the forward FLOPs of a layer's attention.

    They are 4 s^2 h for a sequence attending to itself: scores q k^T and weighted values p v. A
    causal mask leaves half of them.

    Args:
        model: shape of the layer.
        queries: number of queries.
        keys: number of keys.
        causal: whether half of the scores are masked.
    """
    return 2 * MATRIX_FLOPS * queries * keys * model.width * (0.5 if causal else 1)


def model_flops(model: ModelConfig, context: float, *, causal: bool = True) -> float:
    """Returns the FLOPs of training the layers on one sequence, forward and backward.

    Rematerialisation is not counted.

    Args:
        model: shape of the layers.
        context: tokens of the sequence.
        causal: whether half of the attention scores are masked.
    """
    forward = layer_products(model, context) + layer_attention(
        model, context, context, causal=causal
    )
    return (1 + BACKWARD) * model.layers * forward


def growth(model: ModelConfig, before: float, after: float) -> float:
    """Returns how many times the FLOPs of a data set grow with the tokens of a context.

    Contexts grow from `before` to `after` tokens. The factor is the paper's (6 h + s2) / (6 h + s1)
    for attention without a mask and a feedforward network that is 4 times as wide as the model.
    """
    # Tokens at which attention costs as much as the products with weights: 6 h in the paper.
    of_weights = layer_products(model, 1) / layer_attention(model, 1, 1, causal=False)
    return (of_weights + after) / (of_weights + before)
