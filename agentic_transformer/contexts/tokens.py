"""Defines tokens and how steps become tokens. Training, models and agents share this contract.

A step becomes one or several tokens, see `agentic_transformer.contexts.token_layouts`.

The return-to-go of a step is the trajectory's target return minus the rewards so far (Chen et al.
2021, arXiv 2106.01345). Completion is 1 at the last step of a trajectory that reached its target
(arXiv 2305.16554).

An agent that is not conditioned on returns has the same tokens, but they show nothing of the
target: its return-to-go is 0, and completion is 1 at the last step of every trajectory. Behaviour
cloning is such an agent. So is one for hidden tasks whose best return would tell which task it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from agentic_transformer.contexts.normalizer import Normalizer


class Tokens(NamedTuple):
    """Holds a batch of B token rows, each of S = slots * steps * tokens per step tokens.

    The order is natural, or that of the ring after `agentic_transformer.training.sharding`.
    """

    features: np.ndarray
    """(B, S, F) float32."""
    timestep: np.ndarray
    """(B, S) int32, the step within its trajectory."""
    segment: np.ndarray
    """(B, S) int32, the chain; attention stays within one chain."""
    action: np.ndarray
    """(B, S, A) float32, the action to predict; 0 at tokens that predict none."""
    weight: np.ndarray
    """(B, S) float32, weight of the token's loss."""
    rest_return: np.ndarray | None = None
    """(B, S) float32, the sum of rewards from the token's step on, divided by the largest absolute
    return in the data; 0 at tokens that predict no action. None where no value is learned."""


class Steps(NamedTuple):
    """Holds B rows of S whole steps each."""

    return_to_go: np.ndarray
    """(B, S) raw, before the step."""
    observation: np.ndarray
    """(B, S, O) raw."""
    action: np.ndarray
    """(B, S, A)."""
    reward: np.ndarray
    """(B, S) raw."""
    done: np.ndarray
    """(B, S) completion."""
    timestep: np.ndarray
    """(B, S) int32, within the trajectory."""


class PreviousStep(NamedTuple):
    """Holds the outcome of the step before (action, reward, completion), which later tokens carry.

    The leading shape is (batch,) for one step and (batch, steps) for several.
    """

    action: np.ndarray
    """(..., A)."""
    reward: np.ndarray
    """(...) raw."""
    done: np.ndarray
    """(...) completion."""

    @classmethod
    def zeros(cls, batch: int, action_size: int) -> PreviousStep:
        """Returns the outcome that stands before the first step of a chain, (batch, ...)."""
        return cls(np.zeros((batch, action_size), np.float32), np.zeros(batch), np.zeros(batch))


@dataclass(frozen=True)
class TokenLayout(ABC):
    """Describes how steps become tokens."""

    normalizer: Normalizer
    action_size: int
    steps: int
    """Steps of a trajectory."""
    conditioned: bool
    """Whether the agent is conditioned on a target return."""

    tokens_per_step: ClassVar[int]
    action_token: ClassVar[int]
    """Index of the token of a step at which the model predicts the step's action."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Returns the size F of a token."""

    @abstractmethod
    def encode_batch(self, steps: Steps, first: np.ndarray) -> np.ndarray:
        """Encodes rows of training data.

        Args:
            steps: all steps of the rows.
            first: (B, S) bool, true where a chain begins and no step comes before.

        Returns:
            (B, S * tokens_per_step, F) float32.
        """

    @abstractmethod
    def encode_steps(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
        starts_chain: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes T further steps of a context, up to the token that predicts the last action.

        Acting encodes one step at a time. A finished trajectory is encoded at once.

        Args:
            return_to_go: (batch, T) raw.
            observation: (batch, T, O) raw.
            timestep: (batch, T) within the trajectory.
            previous: (batch, T, ...) the outcome of the step before each of them.
            starts_chain: whether the first of them begins a chain, so that nothing came before.

        Returns:
            (batch, tokens, F) float32 features, and (batch, tokens) timesteps.
        """

    def completion(self, target: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """Returns completion flags: 1 at the last step of a trajectory that reached its target.

        Without targets it is 1 at every last step.

        Args:
            target: (...) target returns.
            reward: (..., T) rewards.

        Returns:
            (..., T) float32.
        """
        done = np.zeros(reward.shape, np.float32)
        # Both sides may be sums of the same float32 rewards in another order. So the target is
        # lowered by 1e-5 of its size, whatever its sign.
        done[..., -1] = (
            reward.sum(axis=-1, dtype=np.float64) >= target * (1 - 1e-5 * np.sign(target))
            if self.conditioned
            else 1
        )
        return done

    def _visible_return(self, return_to_go: np.ndarray) -> np.ndarray:
        """Returns what the model sees of returns-to-go (...): 0 if not conditioned on them."""
        if not self.conditioned:
            return np.zeros_like(return_to_go)
        return self.normalizer.scale_return(return_to_go)
