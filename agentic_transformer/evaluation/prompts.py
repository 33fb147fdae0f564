"""Changes one thing about the earlier attempts that a context holds: their rewards, or their order.

A prompt is a list of trajectories of a batch of environments, in the order of the context. The
attempt after the prompt sees its own rewards in every condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import envs
from agentic_transformer.agents.base import Trajectory

CHANGED = ("zero_rewards", "other_rewards", "shuffled")
"""Conditions whose context holds the attempts of condition `own`, changed in one thing."""


def change(
    condition: str, prompt: Sequence[Trajectory], partner: np.ndarray, rng: np.random.Generator
) -> list[Trajectory]:
    """Returns a prompt changed as a condition says.

    Targets are not changed; `Player.prompted` rewrites targets that depend on rewards.

    Args:
        condition: one of `CHANGED`.
        prompt: the trajectories.
        partner: (batch,) whose rewards each row gets, for `other_rewards`; see `draw_partners`.
        rng: generator of the order, for `shuffled`.
    """
    if condition == "zero_rewards":
        return [one._replace(reward=np.zeros_like(one.reward)) for one in prompt]
    if condition == "other_rewards":
        return [one._replace(reward=one.reward[partner]) for one in prompt]
    return _shuffle(prompt, rng)


def draw_partners(tasks: Sequence[envs.Task], rng: np.random.Generator) -> np.ndarray:
    """Draws for each row another row: of another task, if there is one.

    Args:
        tasks: one per row, at least two.
        rng: generator of the draws.

    Returns:
        (batch,) indices of rows.
    """
    rows = np.arange(len(tasks))
    ids = np.array([task.id for task in tasks])
    different = ids[:, None] != ids if len(set(ids)) > 1 else rows[:, None] != rows
    return np.array([rng.choice(np.flatnonzero(others)) for others in different])


def _shuffle(prompt: Sequence[Trajectory], rng: np.random.Generator) -> list[Trajectory]:
    """Returns the trajectories of each row in an order of its own."""
    if len(prompt) < 2:
        return list(prompt)
    rows = np.arange(len(prompt[0].target))
    order = rng.permuted(np.tile(np.arange(len(prompt))[:, None], len(rows)), axis=0)

    def reordered(*arrays: np.ndarray) -> np.ndarray:  # m arrays (batch, ...) -> (m, batch, ...)
        return np.stack(arrays)[order, rows]

    fields = (reordered(*field) for field in zip(*(one[:4] for one in prompt), strict=True))
    return [Trajectory(*one) for one in zip(*fields, strict=True)]
