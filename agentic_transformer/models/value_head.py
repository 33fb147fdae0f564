"""Defines the value that is learned in context: its loss, and how it weights imitated actions.

A hidden task is known only from the context, and so is the value V(h_t) of a state. The model reads
the value from the same tokens h_t as the action: those up to the observation of step t. The value
learns an expectile of G_t, the sum of rewards from step t on, divided by the largest absolute
return in the data. The advantage G_t - V(h_t) is how much more the trajectory earned from step t on
than expected from the context. The weight of an imitated action grows exponentially with the
advantage (Peng et al. 2019, arXiv 1910.00177; Nair et al. 2020, arXiv 2006.09359).

Returns are not bootstrapped, since trajectories are short and physics is deterministic. So the loss
of a token depends on no other token, and is the same in any order of the sequence on the ring.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_LARGEST_WEIGHT = 20.0  # of advantage-weighted regression


def expectile_loss(advantage: jax.Array, expectile: float) -> jax.Array:
    """Computes the loss of each value, by asymmetric squares (Kostrikov et al. 2021, 2110.06169).

    With the advantage A = G - V and the expectile tau,

        |tau - 1[A < 0]| A^2

    Its minimum over V is the tau-expectile of G: the mean at 0.5, toward the best G at 1.

    Args:
        advantage: (...) returns minus values.
        expectile: tau.

    Returns:
        (...) of the same type.
    """
    return jnp.where(advantage < 0, 1 - expectile, expectile) * advantage**2


def advantage_weight(advantage: jax.Array, temperature: float) -> jax.Array:
    """Computes how much each imitated action counts.

        min(exp(A / temperature), 20)

    The weight is a constant to the gradient: imitation does not change the value.

    Args:
        advantage: (...) returns minus values.
        temperature: the advantage at which an action counts e times as much.

    Returns:
        (...) of the same type.
    """
    # The exponent is clipped, not the weight: the exponential of a large exponent would overflow.
    exponent = jnp.minimum(advantage / temperature, math.log(_LARGEST_WEIGHT))
    return jax.lax.stop_gradient(jnp.exp(exponent))
