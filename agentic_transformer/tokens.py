"""Steps of trajectories <-> token arrays: the shape contract of the whole project.

Packed layout: a step is one token that carries everything known before its action is chosen,

    [return-to-go, observation, previous action, previous reward, previous completion, start]     1 + O + A + 1 + 1 + 1 features

and the model's output at that token is the distribution of the step's action. 'Previous' runs across the trajectories
of a chain, so the first token of a trajectory reveals how the one before it ended. The return-to-go of a step is the
trajectory's target less the rewards so far (Chen et al. 2021, arXiv 2106.01345); completion is 1 at the last step of
a trajectory that reached its target (arXiv 2305.16554).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from agentic_transformer.chains import Chains
from datasets import Trajectories


class Tokens(NamedTuple):
    """A batch of token rows; B rows of S = slots * steps tokens in natural order (or in the ring's layout, see `mesh.place`)."""

    features: np.ndarray
    """(B, S, F) float32."""
    timestep: np.ndarray
    """(B, S) int32, the step within its trajectory."""
    segment: np.ndarray
    """(B, S) int32, the chain; attention stays within one."""
    action: np.ndarray
    """(B, S, A) float32, what is to be predicted."""
    weight: np.ndarray
    """(B, S) float32, weight of the token's loss."""


@dataclass(frozen=True)
class Scaling:
    """What brings raw quantities to the order of 1. Measured on the training data, kept with the checkpoint."""

    observation_mean: tuple[float, ...]
    observation_std: tuple[float, ...]
    return_scale: float
    reward_scale: float

    @classmethod
    def of(cls, observation: np.ndarray, best_return: float, reward_scale: float) -> Scaling:
        """Measures observations (rows, O); returns are divided by the best, rewards multiplied by `reward_scale`."""
        rows = observation.astype(np.float64)
        std = rows.std(axis=0)
        return cls(
            observation_mean=tuple(rows.mean(axis=0).tolist()),
            # A constant entry carries nothing: left at its scale instead of divided by zero.
            observation_std=tuple(np.where(std > 1e-6, std, 1.0).tolist()),
            return_scale=max(float(best_return), 1e-6),
            reward_scale=reward_scale,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scaling:
        """From plain values, as `dataclasses.asdict` gives them."""
        return cls(
            observation_mean=tuple(values["observation_mean"]),
            observation_std=tuple(values["observation_std"]),
            return_scale=values["return_scale"],
            reward_scale=values["reward_scale"],
        )


def feature_size(observation_size: int, action_size: int) -> int:
    """Features of a packed token."""
    return observation_size + action_size + 4


def pack(
    scaling: Scaling,
    return_to_go: np.ndarray,
    observation: np.ndarray,
    previous_action: np.ndarray,
    previous_reward: np.ndarray,
    previous_done: np.ndarray,
    start: np.ndarray,
) -> np.ndarray:
    """Features of steps, any leading shape (...).

    Args:
        scaling: of observations, returns and rewards.
        return_to_go: (...) raw.
        observation: (..., O) raw.
        previous_action: (..., A).
        previous_reward: (...) raw.
        previous_done: (...) completion of the step before.
        start: (...) 1 at the first step of a trajectory.

    Returns:
        (..., F) float32.
    """
    standardised = (observation - np.asarray(scaling.observation_mean)) / np.asarray(scaling.observation_std)
    return np.concatenate(
        [
            return_to_go[..., None] / scaling.return_scale,
            standardised,
            previous_action,
            previous_reward[..., None] * scaling.reward_scale,
            previous_done[..., None],
            start[..., None],
        ],
        axis=-1,
        dtype=np.float32,
    )


def returns_to_go(target: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Target less the rewards received before each step.

    Args:
        target: (...) target return of each trajectory.
        reward: (..., T) rewards.

    Returns:
        (..., T); the first entry is the target itself.
    """
    return target[..., None] - (np.cumsum(reward, axis=-1, dtype=np.float64) - reward)


def completion(target: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """1 at the last step of each trajectory that reached its target, else 0.

    Args:
        target: (...) target returns.
        reward: (..., T) rewards.

    Returns:
        (..., T) float32.
    """
    done = np.zeros(reward.shape, np.float32)
    # Both sides may be sums of the same float32 rewards in another order.
    done[..., -1] = reward.sum(axis=-1, dtype=np.float64) >= target * (1 - 1e-5)
    return done


def chain_tokens(scaling: Scaling, chains: Chains, trajectories: Trajectories, reward: np.ndarray) -> Tokens:
    """Token rows of a batch of chains, in natural order.

    Args:
        scaling: of observations, returns and rewards.
        chains: (B, n) slots.
        trajectories: the B * n trajectories of the slots, row by row: observation (B * n, T, O), action (B * n, T, A).
        reward: (B * n, T) rewards of those trajectories under their slot's task.

    Returns:
        Tokens with S = n * T.
    """
    rows, slots = chains.episode.shape
    steps = reward.shape[-1]
    target = chains.target.reshape(-1).astype(np.float64)

    def row(x: np.ndarray) -> np.ndarray:  # (B * n, T, ...) -> (B, S, ...)
        return x.reshape(rows, slots * steps, *x.shape[2:])

    def per_token(x: np.ndarray) -> np.ndarray:  # (B, n) -> (B, S)
        return np.repeat(x, steps, axis=1)

    segment = per_token(chains.chain)
    first_of_chain = np.diff(segment, axis=1, prepend=-1) != 0

    def previous(x: np.ndarray) -> np.ndarray:  # (B, S, ...), shifted by one step; nothing comes before a chain
        shifted = np.roll(x, 1, axis=1)
        shifted[first_of_chain] = 0
        return shifted

    timestep = np.tile(np.arange(steps, dtype=np.int32), (rows, slots))
    action = row(trajectories.action)
    features = pack(
        scaling,
        return_to_go=row(returns_to_go(target, reward)),
        observation=row(trajectories.observation),
        previous_action=previous(action),
        previous_reward=previous(row(reward)),
        previous_done=previous(row(completion(target, reward))),
        start=(timestep == 0),
    )
    return Tokens(features, timestep, segment, action, per_token(chains.weight))
