"""Scales observations, rewards and returns to the order of 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_ROUNDING = 1e-6
"""Share of an entry's largest absolute value below which its deviation may be rounding."""


@dataclass(frozen=True)
class Normalizer:
    """Holds the statistics of the training data by which a model's inputs are scaled.

    They are saved with every checkpoint: an agent must act on the scales that it was trained on.
    """

    observation_mean: tuple[float, ...]
    """Mean of each of the O entries of an observation."""
    observation_std: tuple[float, ...]
    """Standard deviation of each of the O entries; 1 for an entry that changes only by float32
    rounding."""
    return_scale: float
    """Returns are divided by it."""
    reward_scale: float
    """Rewards are multiplied by it."""

    @classmethod
    def measure(
        cls, observation: np.ndarray, largest_return: float, reward_scale: float
    ) -> Normalizer:
        """Returns a normalizer with the mean and deviation of some observations.

        Args:
            observation: (rows, O) raw observations.
            largest_return: the largest absolute return in the data, by which returns are divided.
            reward_scale: the factor of rewards.
        """
        rows = observation.astype(np.float64)
        std = rows.std(axis=0)
        # A constant entry carries no information, and its deviation must not be a divisor. Float32
        # keeps seven digits, so rounding is relative to the entry's size, in any unit.
        changes = std > _ROUNDING * np.abs(rows).max(axis=0)
        return cls(
            observation_mean=tuple(rows.mean(axis=0).tolist()),
            observation_std=tuple(np.where(changes, std, 1.0).tolist()),
            return_scale=max(float(largest_return), 1e-6),
            reward_scale=reward_scale,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalizer:
        """Returns a normalizer from plain values, as `dataclasses.asdict` gives them."""
        return cls(
            observation_mean=tuple(values["observation_mean"]),
            observation_std=tuple(values["observation_std"]),
            return_scale=values["return_scale"],
            reward_scale=values["reward_scale"],
        )

    def with_ranges(self, low: np.ndarray, high: np.ndarray) -> Normalizer:
        """Returns a normalizer for observations with further entries at their end.

        Args:
            low: (P,) values that are scaled to -1.
            high: (P,) values that are scaled to 1; an entry with equal `low` is only centred.
        """
        middle, half = (high + low) / 2.0, (high - low) / 2.0
        half = np.where(half > 0, half, 1.0)
        return replace(
            self,
            observation_mean=(*self.observation_mean, *middle.tolist()),
            observation_std=(*self.observation_std, *half.tolist()),
        )

    def normalize(self, observation: np.ndarray) -> np.ndarray:
        """Returns observations (..., O) with mean 0 and deviation 1 over the training data."""
        mean, std = np.asarray(self.observation_mean), np.asarray(self.observation_std)
        return (observation - mean) / std

    def scale_reward(self, reward: np.ndarray) -> np.ndarray:
        """Returns rewards (...) as the model sees them."""
        return reward * self.reward_scale

    def scale_return(self, return_to_go: np.ndarray) -> np.ndarray:
        """Returns returns-to-go (...) divided by the largest absolute return in the data."""
        return return_to_go / self.return_scale
