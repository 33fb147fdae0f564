"""Measures by how much rounding alone makes the losses of two programs differ.

Training passes small differences on and enlarges them. By how much depends on the data and the
optimizer, and no formula says it. So it is measured in the program at hand: training is repeated
from parameters that are each off by one rounding.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from tests.seeds import rng
from tests.tolerances import CERTAINTY, assert_within, rounding, unit

REPETITIONS = 3


class Course(NamedTuple):
    """Losses of every step, and the parameters after the last."""

    losses: np.ndarray
    params: Any


def course(step, state, batches):
    """Trains; `state` is left as it is."""
    state, losses = jax.tree.map(jnp.copy, state), []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return Course(np.array(losses), state.params)


class Allowance(NamedTuple):
    """How far another program's losses and parameters may lie from the expected ones.

    `params` bounds the norm of the difference of all parameters.
    """

    losses: np.ndarray
    params: float

    def check(self, found, expected):
        """Asserts that a course is another but for rounding."""
        self.check_losses(found.losses, expected.losses)
        assert distance(found.params, expected.params) <= self.params

    def check_losses(self, found, expected):
        assert_within(found, expected, self.losses)


def allowance(step, state, batches, expected, terms):
    """Measures what one rounding of every parameter does to a course.

    The allowance holds for sums of as many as `terms` numbers.

    A sum of n terms is rounded n times at its own size, which is sqrt(n) times as much as what
    roundings of its terms do to it: CERTAINTY sqrt(terms) times the effect of the parameters'
    roundings, and the rounding of the loss itself, a sum.
    """
    courses = [
        course(step, _off(state, rng(repetition)), batches) for repetition in range(REPETITIONS)
    ]
    factor = CERTAINTY * np.sqrt(terms)
    losses = np.max([np.abs(each.losses - expected.losses) for each in courses], axis=0)
    # Differences may cross zero on their way: what was reached may be reached again.
    losses = factor * np.maximum.accumulate(losses) + 2 * rounding(terms) * np.abs(expected.losses)
    return Allowance(
        losses, factor * max(distance(each.params, expected.params) for each in courses)
    )


def distance(params, others):
    """Returns the norm of the difference of all parameters."""
    ours, theirs = (
        np.asarray(ravel_pytree(jax.device_get(tree))[0], np.float64) for tree in (params, others)
    )
    return np.linalg.norm(ours - theirs)


def _off(state, data):
    """The state with each parameter off by one rounding, up or down."""

    def off(x):
        return jax.device_put(
            np.asarray(x) * (1 + unit(x.dtype) * data.choice([-2, 2], x.shape)).astype(x.dtype),
            x.sharding,
        )

    return state._replace(params=jax.tree.map(off, state.params))
