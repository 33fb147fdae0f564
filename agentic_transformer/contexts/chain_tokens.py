"""Encodes chains of trajectories as token rows for training."""

from __future__ import annotations

import numpy as np

from agentic_transformer.contexts.chains import Chains
from agentic_transformer.contexts.tokens import Steps, TokenLayout, Tokens
from datasets import Trajectories


def returns_to_go(target: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Returns the target minus the rewards received before each step.

        R_t = R_0 - (r_0 + ... + r_{t-1})

    Args:
        target: (...) target return R_0 of each trajectory.
        reward: (..., T) rewards r.

    Returns:
        (..., T) returns-to-go R; the first entry is the target itself.
    """
    return target[..., None] - (np.cumsum(reward, axis=-1, dtype=np.float64) - reward)


def encode_chains(
    layout: TokenLayout,
    chains: Chains,
    trajectories: Trajectories,
    reward: np.ndarray,
    imitated: np.ndarray | None = None,
    with_rest_return: bool = False,
) -> Tokens:
    """Encodes a batch of chains as token rows, in natural order.

    Args:
        layout: how steps become tokens.
        chains: (B, n) slots.
        trajectories: the B * n trajectories of the slots, row by row: observation (B * n, T, O),
            action (B * n, T, A).
        reward: (B * n, T) rewards of those trajectories under their slot's task.
        imitated: (B * n, T, A) actions to predict; None for the actions that were taken.
        with_rest_return: whether the tokens hold the target of the value head.

    Returns:
        Tokens with S = n * T * layout.tokens_per_step.
    """
    rows, slots = chains.episode.shape
    steps_per_slot = reward.shape[-1]
    target = chains.target.reshape(-1).astype(np.float64)

    def to_rows(x: np.ndarray) -> np.ndarray:  # (B * n, T, ...) -> (B, n * T, ...)
        return x.reshape(rows, slots * steps_per_slot, *x.shape[2:])

    def per_step(x: np.ndarray) -> np.ndarray:  # (B, n) -> (B, n * T)
        return np.repeat(x, steps_per_slot, axis=1)

    def per_token(x: np.ndarray) -> np.ndarray:  # (B, n * T) -> (B, S)
        return np.repeat(x, layout.tokens_per_step, axis=1)

    def at_action_tokens(x: np.ndarray) -> np.ndarray:  # (B, n * T, ...) -> (B, S, ...)
        spread = np.zeros((*x.shape[:2], layout.tokens_per_step, *x.shape[2:]), x.dtype)
        spread[:, :, layout.action_token] = x  # 0 at all other tokens
        return spread.reshape(rows, -1, *x.shape[2:])

    steps = Steps(
        return_to_go=to_rows(returns_to_go(target, reward)),
        observation=to_rows(trajectories.observation),
        action=to_rows(trajectories.action),
        reward=to_rows(reward),
        done=to_rows(layout.completion(target, reward)),
        timestep=np.tile(np.arange(steps_per_slot, dtype=np.int32), (rows, slots)),
    )
    rest_return = None
    if with_rest_return:
        # The return of the whole trajectory minus the rewards before the step.
        rest = returns_to_go(reward.sum(axis=-1, dtype=np.float64), reward)
        scaled = layout.normalizer.scale_return(rest).astype(np.float32)
        rest_return = at_action_tokens(to_rows(scaled))
    # (B, n * T); where it changes, a chain begins.
    chain = per_step(chains.chain)
    return Tokens(
        features=layout.encode_batch(steps, first=np.diff(chain, axis=1, prepend=-1) != 0),
        timestep=per_token(steps.timestep),
        segment=per_token(chain),
        action=at_action_tokens(steps.action if imitated is None else to_rows(imitated)),
        weight=at_action_tokens(per_step(chains.weight)),
        rest_return=rest_return,
    )
