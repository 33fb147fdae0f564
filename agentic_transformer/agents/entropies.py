"""Computes how uncertain an agent was, for all actions of an attempt in one program.

If the program of each step computed the entropy, it would start more kernels on a GPU, which
already waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.config import ModelConfig
from agentic_transformer.models.heads import action_entropy

_ENTROPY = 2  # folded into the key of a step, which `draw_action` splits into numbers 0 and 1


def action_entropies(
    model: ModelConfig, outputs: Sequence[np.ndarray], key: jax.Array
) -> np.ndarray:
    """Estimates the entropy of each mixture that an attempt's actions were drawn from.

    See `agentic_transformer.models.heads.action_entropy`.

    Args:
        model: settings of the model, whose head is a mixture.
        outputs: of the model, (batch, head_size) for each of T steps.
        key: random key of the attempt, as `Agent.act` takes it.

    Returns:
        (batch, T) float32, in nats.
    """
    return jax.device_get(_entropies(model, np.stack(outputs), key)).T


@partial(jax.jit, static_argnums=0)
def _entropies(model: ModelConfig, outputs: jax.Array, key: jax.Array) -> jax.Array:
    def of_step(step: tuple[jax.Array, jax.Array]) -> jax.Array:
        outputs, timestep = step
        key_of_step = jax.random.fold_in(jax.random.fold_in(key, timestep), _ENTROPY)
        return action_entropy(model, outputs, key_of_step)

    # Step by step: all densities at once would take many times the memory of the outputs.
    return jax.lax.map(of_step, (outputs, jnp.arange(len(outputs))))
