"""Checks whether an online learner can collect what is asked for, without loading jax."""

from __future__ import annotations

import envs
from agentic_transformer.errors import listing, raise_config_error
from envs.registry import families_with_parameters


def check_rounds(
    task: str, episodes: int, episodes_per_round: int, length: int | None, action_repeat: int
) -> None:
    """Raises a UserError unless a learner that is told its task can collect these episodes.

    Args:
        task: name or id of a task.
        episodes: how many are collected.
        episodes_per_round: how many are made between updates.
        length: steps of an episode; None for whole ones.
        action_repeat: steps for which an action is held.
    """
    families = families_with_parameters()
    if task not in families:
        raise_config_error(
            f"data.algo=td3 with task={task}, which has no hidden parameters to tell a learner",
            f"a task such as {listing(families)}",
        )
    if episodes % episodes_per_round:
        raise_config_error(
            f"data.episodes={episodes} with td3.episodes={episodes_per_round} in a round",
            f"a multiple, such as {-(-episodes // episodes_per_round) * episodes_per_round}",
        )
    length = envs.spec(task).length if length is None else length
    if length % action_repeat:
        raise_config_error(
            f"data.action_repeat={action_repeat} does not divide the {length} steps of an episode",
            f"a divisor, or data.length={length // action_repeat * action_repeat}",
        )
