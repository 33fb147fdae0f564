"""Encodes steps of trajectories as tokens, in two layouts.

Packed layout: a step is one token. It carries everything that is known before its action is chosen,

    [return-to-go, observation, previous action, previous reward, previous completion, start]
           1            O               A                1                  1            1

and the model's output at that token is the distribution of the step's action. "Previous" reaches
across the trajectories of a chain, so that the first token of a trajectory shows how the trajectory
before it ended.

Separate layout (arXiv 2310.01889, section 5.3): a step is four tokens, in this order,

    [return-to-go], [observation], [action], [reward, completion]

Each token ends in the one-hot of its kind, so that the single linear embedding of the model has
separate weights for each kind. The output at the observation's token is the distribution of the
step's action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentic_transformer.contexts.tokens import PreviousStep, Steps, TokenLayout


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
            # Across the trajectories of a chain, but not from one chain into the next.
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
        # The outcome belongs to the step before, which may end the trajectory before.
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
        """Returns a step's last two tokens, each (B, T, F): its action and its outcome."""
        outcome = np.stack([self.normalizer.scale_reward(step.reward), step.done], axis=-1)
        return self._token(2, step.action), self._token(3, outcome)

    def _token(self, kind: int, values: np.ndarray) -> np.ndarray:
        """Puts entries of one kind (B, T, size) where a token (B, T, F) float32 has them."""
        token = np.zeros((*values.shape[:-1], self.feature_size), np.float32)
        # Every kind has entries of its own; those of the other kinds stay 0.
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
