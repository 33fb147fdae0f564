"""Defines the value that is learned in context: its loss, and how it weights imitated actions.

A hidden task is known from the context alone. So is the value V(h_t) of a state: the model reads it
from the same tokens h_t as the action, those up to the observation of step t. It learns an
expectile of G_t, the return of the rest of the trajectory as a share of the best return in the
data. The difference G_t - V(h_t) is the advantage: by how much the trajectory went on better than
trajectories do from there, as far as the context tells. Actions are imitated in proportion to its
exponential (Peng et al. 2019, arXiv 1910.00177; Nair et al. 2020, arXiv 2006.09359).

Returns are not bootstrapped. They are short and their physics deterministic, and a token's loss
then needs nothing of another token: it is the same in any order of the sequence on the ring.
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
    # The least of the exponents: a large one would overflow.
    exponent = jnp.minimum(advantage / temperature, math.log(_LARGEST_WEIGHT))
    return jax.lax.stop_gradient(jnp.exp(exponent))
