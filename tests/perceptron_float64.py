"""Computes a network of `actor_critic` in float64, and sets what such a network returns."""

import jax
import jax.numpy as jnp
import numpy as np


def perceptron(layers, x):
    """Applies linear layers with ReLU between them."""
    for index, layer in enumerate(layers):
        x = x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)
        x = np.maximum(x, 0) if index < len(layers) - 1 else x
    return x


def set_output(state, value):
    """Returns the parameters of a perceptron whose output is the same for every input."""
    *hidden, last = sorted(state["layers"])
    state = jax.tree.map(jnp.zeros_like, state)
    state["layers"][last]["bias"][...] = jnp.asarray(value, jnp.float32)
    return state
