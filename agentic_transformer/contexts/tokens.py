"""Encodes steps of trajectories as tokens. Training, the model's shape and acting share this code.

Packed layout: a step is one token. It carries everything that is known before its action is chosen,

    [return-to-go, observation, previous action, previous reward, previous completion, start]
           1            O               A                1                  1            1

and the model's output at that token is the distribution of the step's action. "Previous" reaches
across the trajectories of a chain, so that the first token of a trajectory shows how the trajectory
before it ended.

Separate layout (arXiv 2310.01889, section 5.3): a step is four tokens, in this order,

    [return-to-go], [observation], [action], [reward, completion]

Each ends in the one-hot of its kind, so that the model's single linear embedding has weights of its
own for every kind. The output at the observation's token is the distribution of the step's action.

The return-to-go of a step is the trajectory's target return minus the rewards so far (Chen et al.
2021, arXiv 2106.01345). Completion is 1 at the last step of a trajectory that reached its target
(arXiv 2305.16554).

An agent that is not conditioned on returns has the same tokens, but they show nothing of the
target: its return-to-go is 0, and completion is 1 at the last step of every trajectory. Behaviour
cloning is such an agent. So is one for hidden tasks whose best return would tell which task it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    """Holds the outcome of the step before: the part of it that later tokens carry.

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
        # The tolerance: both sides may be sums of the same float32 rewards in another order.
        done[..., -1] = (
            reward.sum(axis=-1, dtype=np.float64) >= target * (1 - 1e-5) if self.conditioned else 1
        )
        return done

    def _visible_return(self, return_to_go: np.ndarray) -> np.ndarray:
        """Returns what the model sees of returns-to-go (...): 0 if not conditioned on them."""
        if not self.conditioned:
            return np.zeros_like(return_to_go)
        return self.normalizer.scale_return(return_to_go)


class PackedTokens(TokenLayout):
    """Encodes a step as one token (ours)."""

    tokens_per_step = 1
    action_token = 0

    @property
    def feature_size(self) -> int:
        """Returns the size F of a token."""
        return len(self.normalizer.observation_mean) + self.action_size + 4

    def encode_batch(self, steps: Steps, first: np.ndarray) -> np.ndarray:
        """Encodes rows of training data, see `TokenLayout.encode_batch`."""

        def previous(x: np.ndarray) -> np.ndarray:  # (B, S, ...), shifted by one step
            shifted = np.roll(x, 1, axis=1)
            shifted[first] = 0
            return shifted

        before = PreviousStep(previous(steps.action), previous(steps.reward), previous(steps.done))
        return self._pack(steps.return_to_go, steps.observation, steps.timestep, before)

    def encode_steps(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
        starts_chain: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes T further steps, see `TokenLayout.encode_steps`.

        `starts_chain` changes nothing here: the features of an empty `previous` are zeros.
        """
        return self._pack(return_to_go, observation, timestep, previous), timestep

    def _pack(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
    ) -> np.ndarray:
        """Concatenates the parts of each step's token, (..., F) float32."""
        return np.concatenate(
            [
                self._visible_return(return_to_go)[..., None],
                self.normalizer.normalize(observation),
                previous.action,
                self.normalizer.scale_reward(previous.reward)[..., None],
                previous.done[..., None],
                (timestep == 0)[..., None],
            ],
            axis=-1,
            dtype=np.float32,
        )


class SeparateTokens(TokenLayout):
    """Encodes a step as four tokens (the papers')."""

    tokens_per_step = 4
    action_token = 1

    @property
    def feature_size(self) -> int:
        """Returns the size F of a token: all kinds side by side, and the one-hot of the kind."""
        return sum(self._kind_sizes()) + 4

    def encode_batch(self, steps: Steps, first: np.ndarray) -> np.ndarray:
        """Encodes rows of training data, see `TokenLayout.encode_batch`."""
        outcome = PreviousStep(steps.action, steps.reward, steps.done)
        pre_action = self._pre_action_tokens(steps.return_to_go, steps.observation)
        return _interleave([*pre_action, *self._post_action_tokens(outcome)])

    def encode_steps(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
        starts_chain: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes T further steps, see `TokenLayout.encode_steps`.

        The two tokens of a step's outcome are encoded together with the step after it.
        """
        pre_action = self._pre_action_tokens(return_to_go, observation)
        features = _interleave([*self._post_action_tokens(previous), *pre_action])
        before = (timestep - 1) % self.steps
        timesteps = _interleave([before, before, timestep, timestep])
        start = 2 if starts_chain else 0  # no outcome comes before a chain
        return features[:, start:], timesteps[:, start:]

    def _kind_sizes(self) -> tuple[int, int, int, int]:
        """Returns the number of entries of each kind of token."""
        return 1, len(self.normalizer.observation_mean), self.action_size, 2

    def _pre_action_tokens(
        self, return_to_go: np.ndarray, observation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a step's first two tokens, each (B, T, F): what is known before its action."""
        to_go = self._token(0, self._visible_return(return_to_go)[..., None])
        return to_go, self._token(1, self.normalizer.normalize(observation))

    def _post_action_tokens(self, step: PreviousStep) -> tuple[np.ndarray, np.ndarray]:
        """Returns a step's last two tokens, each (B, T, F): its action and what came of it."""
        outcome = np.stack([self.normalizer.scale_reward(step.reward), step.done], axis=-1)
        return self._token(2, step.action), self._token(3, outcome)

    def _token(self, kind: int, values: np.ndarray) -> np.ndarray:
        """Puts entries of one kind (B, T, size) where a token (B, T, F) float32 has them."""
        token = np.zeros((*values.shape[:-1], self.feature_size), np.float32)
        start = sum(self._kind_sizes()[:kind])
        token[..., start : start + values.shape[-1]] = values
        token[..., kind - 4] = 1  # the one-hot of the kind stands last
        return token


TOKEN_LAYOUTS: dict[str, type[TokenLayout]] = {"packed": PackedTokens, "separate": SeparateTokens}
"""Token layouts by the value of `model.tokens`."""


def _interleave(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Interleaves k arrays (B, T, ...) to (B, T * k, ...): the first entries of all come first."""
    stacked = np.stack(arrays, axis=2)
    return stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])
