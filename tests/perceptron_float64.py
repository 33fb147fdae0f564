"""Computes a multilayer perceptron in float64, from the layers of a network of `actor_critic`."""

import numpy as np


def perceptron(layers, x):
    """Applies linear layers with ReLU between them."""
    for index, layer in enumerate(layers):
        x = x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)
        x = np.maximum(x, 0) if index < len(layers) - 1 else x
    return x
