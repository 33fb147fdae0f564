"""Cartpole: balance and swingup, each dense and sparse (dm_control).

Everything follows from the joints in closed form.
"""

from __future__ import annotations

import numpy as np
from dm_control import suite
from dm_control.utils.rewards import tolerance

from envs.domain import Domain, Readings

_CART_RANGE = (-0.25, 0.25)
_COSINE_RANGE = (0.995, 1)


def _observe(readings: Readings) -> np.ndarray:
    cart, pole = readings["qpos"].T
    return np.concatenate(
        [np.stack([cart, np.cos(pole), np.sin(pole)], axis=1), readings["qvel"]], axis=1
    )


def _dense(readings: Readings) -> np.ndarray:
    cart, pole = readings["qpos"].T
    upright = (np.cos(pole) + 1) / 2
    centred = (1 + tolerance(cart, margin=2)) / 2
    small_control = (
        4 + tolerance(readings["ctrl"][:, 0], margin=1, value_at_margin=0, sigmoid="quadratic")
    ) / 5
    small_velocity = (1 + tolerance(readings["qvel"][:, 1], margin=5)) / 2
    return upright * small_control * small_velocity * centred


def _sparse(readings: Readings) -> np.ndarray:
    cart, pole = readings["qpos"].T
    return tolerance(cart, _CART_RANGE) * tolerance(np.cos(pole), _COSINE_RANGE)


DOMAIN = Domain(
    build=lambda mode: suite.load("cartpole", mode),
    observe=_observe,
    rewards={
        "balance": _dense,
        "swingup": _dense,
        "balance_sparse": _sparse,
        "swingup_sparse": _sparse,
    },
    guides={"balance_sparse": _dense, "swingup_sparse": _dense},
)
