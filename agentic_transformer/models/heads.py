"""Defines action heads: what the outputs mean, the loss of an action, and how one is drawn.

`mse` is the paper's head: squared error and a deterministic action. `mixture` is ours. A mixture of
Gaussians can represent several ways to search; squared error would average them into one action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from agentic_transformer.config import ModelConfig

_LOG_STD_MAX = 1.0


def head_size(config: ModelConfig, action_size: int) -> int:
    """Returns the number of outputs of the model at a token.

    Args:
        config: which head, and how many components K a mixture has.
        action_size: entries A of an action.
    """
    if config.head == "mse":
        return action_size
    return config.components * (1 + 2 * action_size)  # weight, mean, log standard deviation


def _mixture(config: ModelConfig, outputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits outputs (..., K * (1 + 2A)) into logits (..., K), means and log stds (..., K, A)."""
    logits, rest = outputs[..., : config.components], outputs[..., config.components :]
    means, log_stds = jnp.split(rest.reshape(*rest.shape[:-1], config.components, -1), 2, axis=-1)
    # The deviation has a lower bound: on actions without noise a Gaussian would become ever
    # narrower, and its gradients would outweigh those of all other actions.
    return logits, means, jnp.clip(log_stds, config.log_std_min, _LOG_STD_MAX)


def action_loss(config: ModelConfig, outputs: jax.Array, action: jax.Array) -> jax.Array:
    """Computes the loss of each action.

    `mse`: squared error, summed over the entries of the action. `mixture`: negative log-likelihood
    in nats,

        -log sum_k w_k prod_i N(a_i; mu_ki, sigma_ki)

    Args:
        config: which head.
        outputs: (..., head_size) of the model.
        action: (..., A).

    Returns:
        (...) float32.
    """
    if config.head == "mse":
        return jnp.sum((outputs - action) ** 2, axis=-1)
    logits, means, log_stds = _mixture(config, outputs)
    z = (action[..., None, :] - means) * jnp.exp(-log_stds)  # (..., K, A)
    # (..., K): the log density of the action under each component
    log_density = jnp.sum(-0.5 * z**2 - log_stds - 0.5 * jnp.log(2 * jnp.pi), axis=-1)
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_density, axis=-1)


def action_entropy(config: ModelConfig, outputs: jax.Array, key: jax.Array) -> jax.Array:
    """Estimates the entropy of the mixture at each output, in nats.

    The entropy of a mixture has no closed form. This is an unbiased estimate from one draw of each
    component,

        H = -sum_k w_k E_k[log p(a)]  ~  -sum_k w_k log p(a_k),  a_k ~ N(mu_k, sigma_k)

    The mixture is the model's own, before `draw_action` changes it by temperature and noise and
    clips the action.

    Args:
        config: which head; it must be `mixture`.
        outputs: (..., head_size) of the model.
        key: random key.

    Returns:
        (...) float32.
    """
    logits, means, log_stds = _mixture(config, outputs)
    drawn = means + jnp.exp(log_stds) * jax.random.normal(key, means.shape)  # (..., K, A)
    minus_log_p = action_loss(config, outputs[..., None, :], drawn)  # (..., K)
    return jnp.sum(jax.nn.softmax(logits) * minus_log_p, axis=-1)


def draw_action(
    config: ModelConfig, outputs: jax.Array, key: jax.Array, temperature: float, noise: float
) -> jax.Array:
    """Draws an action within [-1, 1] for each output.

    Args:
        config: which head; `mse` is deterministic.
        outputs: (batch, head_size).
        key: random key.
        temperature: divides the mixture's logits; 0 takes the likeliest component.
        noise: multiplies the Gaussian's standard deviation.

    Returns:
        (batch, A).
    """
    if config.head == "mse":
        return jnp.clip(outputs, -1.0, 1.0)
    logits, means, log_stds = _mixture(config, outputs)
    component_key, noise_key = jax.random.split(key)
    greedy = jnp.argmax(logits, axis=-1)
    drawn = jax.random.categorical(component_key, logits / jnp.maximum(temperature, 1e-6), axis=-1)
    component = jnp.where(temperature > 0, drawn, greedy)[..., None, None]  # (batch, 1, 1)
    mean, log_std = (
        jnp.take_along_axis(x, component, axis=-2)[..., 0, :] for x in (means, log_stds)
    )  # each (batch, A)
    return jnp.clip(
        mean + noise * jnp.exp(log_std) * jax.random.normal(noise_key, mean.shape), -1.0, 1.0
    )
