"""Defines cartpole: balance and swingup, each dense and sparse (dm_control).

Everything follows from the joints in closed form, so rewards take no stage of MuJoCo's pipeline.
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
    position = np.stack([cart, np.cos(pole), np.sin(pole)], axis=1)
    return np.concatenate([position, readings["qvel"]], axis=1)


def _dense(readings: Readings) -> np.ndarray:
    # dm_control's smooth reward: upright * small control * small velocity * centred, each in [0, 1]
    cart, pole = readings["qpos"].T
    upright = (np.cos(pole) + 1) / 2
    centred = (1 + tolerance(cart, margin=2)) / 2
    control = readings["ctrl"][:, 0]
    small_control = tolerance(control, margin=1, value_at_margin=0, sigmoid="quadratic")
    small_control = (4 + small_control) / 5
    small_velocity = (1 + tolerance(readings["qvel"][:, 1], margin=5)) / 2
    return upright * small_control * small_velocity * centred


def _sparse(readings: Readings) -> np.ndarray:
    cart, pole = readings["qpos"].T
    return tolerance(cart, _CART_RANGE) * tolerance(np.cos(pole), _COSINE_RANGE)


DOMAIN = Domain(
    build=lambda behaviour: suite.load("cartpole", behaviour),
    observe=_observe,
    rewards={
        "balance": _dense,
        "swingup": _dense,
        "balance_sparse": _sparse,
        "swingup_sparse": _sparse,
    },
    # A sparse reward is 0 almost everywhere, so a planner follows the dense one.
    shaped_rewards={"balance_sparse": _dense, "swingup_sparse": _dense},
)
