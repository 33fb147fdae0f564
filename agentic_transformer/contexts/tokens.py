"""Steps of trajectories <-> token arrays: the shape contract of the whole project.

Packed layout: a step is one token that carries everything known before its action is chosen,

    [return-to-go, observation, previous action, previous reward, previous completion, start]     1
    + O + A + 1 + 1 + 1 features

and the model's output at that token is the distribution of the step's action. 'Previous' runs
across the trajectories of a chain, so the first token of a trajectory reveals how the one before it
ended.

Separate layout (arXiv 2310.01889, section 5.3): a step is four tokens, in this order,

    [return-to-go], [observation], [action], [reward, completion]

each with the one-hot of its kind, so that the model's one linear embedding is one of its own for
each kind. The output at the observation's token is the distribution of the step's action.

The return-to-go of a step is the
trajectory's target less the rewards so far (Chen et al. 2021, arXiv 2106.01345); completion is 1 at
the last step of a trajectory that reached its target (arXiv 2305.16554).

An agent that is not conditioned on returns (behaviour cloning; a hidden task whose best return
would tell which task it is) has the same tokens without anything of the target in them:
return-to-go is 0, and every trajectory's last step is its completion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from agentic_transformer.contexts.chains import Chains
from datasets import Trajectories


class Tokens(NamedTuple):
    """B token rows of S = slots * steps * tokens per step in natural order (or in the ring's
    layout, see `training.sharding.shard_batch`).
    """

    features: np.ndarray
    """(B, S, F) float32."""
    timestep: np.ndarray
    """(B, S) int32, the step within its trajectory."""
    segment: np.ndarray
    """(B, S) int32, the chain; attention stays within one."""
    action: np.ndarray
    """(B, S, A) float32, what is to be predicted; 0 where nothing is."""
    weight: np.ndarray
    """(B, S) float32, weight of the token's loss."""


@dataclass(frozen=True)
class Normalizer:
    """What brings raw quantities to the order of 1.

    Measured on the training data, kept with the checkpoint.
    """

    observation_mean: tuple[float, ...]
    observation_std: tuple[float, ...]
    return_scale: float
    reward_scale: float

    @classmethod
    def of(cls, observation: np.ndarray, best_return: float, reward_scale: float) -> Normalizer:
        """Measures observations (rows, O); returns are divided by the best, rewards multiplied by
        `reward_scale`.
        """
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
    def from_dict(cls, values: dict[str, Any]) -> Normalizer:
        """From plain values, as `dataclasses.asdict` gives them."""
        return cls(
            observation_mean=tuple(values["observation_mean"]),
            observation_std=tuple(values["observation_std"]),
            return_scale=values["return_scale"],
            reward_scale=values["reward_scale"],
        )


class Steps(NamedTuple):
    """Whole steps of B rows, S of them in each."""

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
    """How a step ended: what tokens after it carry of it.

    Of one step (batch, ...), or of several (batch, steps, ...).
    """

    action: np.ndarray
    """(..., A)"""
    reward: np.ndarray
    """(...) raw"""
    done: np.ndarray
    """(...) completion"""

    @classmethod
    def nothing(cls, batch: int, action_size: int) -> PreviousStep:
        """What stands before the first step of a chain, (batch, ...)."""
        return cls(np.zeros((batch, action_size), np.float32), np.zeros(batch), np.zeros(batch))


@dataclass(frozen=True)
class TokenLayout(ABC):
    """How steps become tokens: what training, the model's shape and acting have to agree on."""

    scaling: Normalizer
    action_size: int
    steps: int
    """Of a trajectory."""
    conditioned: bool
    """Whether the agent is conditioned on a target return."""

    tokens_per_step: ClassVar[int]
    decision: ClassVar[int]
    """Which of a step's tokens is the one at which the model's output is the step's action."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Size F of a token."""

    @abstractmethod
    def rows(self, steps: Steps, first: np.ndarray) -> np.ndarray:
        """Tokens of rows of training data.

        Args:
            steps: of the rows.
            first: (B, S) where a chain begins: nothing comes before it.

        Returns:
            (B, S * tokens_per_step, F) float32.
        """

    @abstractmethod
    def continuation(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
        fresh: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of T further steps up to the decision of the last: what the model can have seen
        when it acts there.

        Args:
            return_to_go: (batch, T) raw.
            observation: (batch, T, O) raw.
            timestep: (batch, T) within the trajectory.
            previous: how the step before each of them ended, (batch, T, ...).
            fresh: whether they begin a chain, so that `previous` of the first is nothing.

        Returns:
            (batch, tokens, F) float32 features, and (batch, tokens) timesteps.
        """

    def completion(self, target: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """1 at the last step of each trajectory that reached its target (of each, where there are
        no targets), else 0.

        Args:
            target: (...) target returns.
            reward: (..., T) rewards.

        Returns:
            (..., T) float32.
        """
        done = np.zeros(reward.shape, np.float32)
        # Both sides may be sums of the same float32 rewards in another order.
        done[..., -1] = (
            reward.sum(axis=-1, dtype=np.float64) >= target * (1 - 1e-5) if self.conditioned else 1
        )
        return done

    def _return(self, return_to_go: np.ndarray) -> np.ndarray:
        """(...) raw -> (...) as the model sees it."""
        return (
            return_to_go / self.scaling.return_scale
            if self.conditioned
            else np.zeros_like(return_to_go)
        )

    def standardised(self, observation: np.ndarray) -> np.ndarray:
        """(..., O) raw -> (..., O) standardised."""
        return (observation - np.asarray(self.scaling.observation_mean)) / np.asarray(
            self.scaling.observation_std
        )

    def scaled(self, reward: np.ndarray) -> np.ndarray:
        """(...) raw -> (...) scaled."""
        return reward * self.scaling.reward_scale


class PackedTokens(TokenLayout):
    """A step is one token (ours)."""

    tokens_per_step = 1
    decision = 0

    @property
    def features(self) -> int:
        """See `TokenLayout`."""
        return len(self.scaling.observation_mean) + self.action_size + 4

    def rows(self, steps: Steps, first: np.ndarray) -> np.ndarray:
        """See `TokenLayout`."""

        def previous(x: np.ndarray) -> np.ndarray:  # (B, S, ...), shifted by one step
            shifted = np.roll(x, 1, axis=1)
            shifted[first] = 0
            return shifted

        past = PreviousStep(previous(steps.action), previous(steps.reward), previous(steps.done))
        return self._pack(steps.return_to_go, steps.observation, steps.timestep, past)

    def continuation(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
        fresh: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `TokenLayout`; of a fresh context the features of `previous` are 0."""
        return self._pack(return_to_go, observation, timestep, previous), timestep

    def _pack(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
    ) -> np.ndarray:
        """(..., F) float32 of steps of any leading shape."""
        return np.concatenate(
            [
                self._return(return_to_go)[..., None],
                self.standardised(observation),
                previous.action,
                self.scaled(previous.reward)[..., None],
                previous.done[..., None],
                (timestep == 0)[..., None],
            ],
            axis=-1,
            dtype=np.float32,
        )


class SeparateTokens(TokenLayout):
    """A step is four tokens (the papers')."""

    tokens_per_step = 4
    decision = 1

    @property
    def features(self) -> int:
        """See `TokenLayout`."""
        return sum(self._sizes()) + 4

    def rows(self, steps: Steps, first: np.ndarray) -> np.ndarray:
        """See `TokenLayout`."""
        ended = PreviousStep(steps.action, steps.reward, steps.done)
        tokens = [*self._asked(steps.return_to_go, steps.observation), *self._ended(ended)]
        return _in_turn(tokens)

    def continuation(
        self,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: np.ndarray,
        previous: PreviousStep,
        fresh: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `TokenLayout`; the tokens of how a step ended are encoded with the step after it."""
        before = (timestep - 1) % self.steps
        features = _in_turn([*self._ended(previous), *self._asked(return_to_go, observation)])
        timesteps = _in_turn([before, before, timestep, timestep])
        first = 2 if fresh else 0
        return features[:, first:], timesteps[:, first:]

    def _sizes(self) -> tuple[int, int, int, int]:
        """Entries of each kind of token."""
        return 1, len(self.scaling.observation_mean), self.action_size, 2

    def _asked(
        self, return_to_go: np.ndarray, observation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A step's first two tokens, each (B, T, F): what is known before its action."""
        return self._token(0, self._return(return_to_go)[..., None]), self._token(
            1, self.standardised(observation)
        )

    def _ended(self, step: PreviousStep) -> tuple[np.ndarray, np.ndarray]:
        """A step's last two tokens, each (B, T, F): what is known after it."""
        outcome = np.stack([self.scaled(step.reward), step.done], axis=-1)
        return self._token(2, step.action), self._token(3, outcome)

    def _token(self, kind: int, values: np.ndarray) -> np.ndarray:
        """Entries of one kind (B, T, size) in their place of a token (B, T, F) float32."""
        token = np.zeros((*values.shape[:-1], self.features), np.float32)
        start = sum(self._sizes()[:kind])
        token[..., start : start + values.shape[-1]] = values
        token[..., kind - 4] = 1
        return token


TOKEN_LAYOUTS: dict[str, type[TokenLayout]] = {"packed": PackedTokens, "separate": SeparateTokens}
"""By the name of `model.tokens`."""


def _in_turn(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays, k of (B, T, ...) -> (B, T * k, ...): the first entries of all, then the second, and
    so on.
    """
    stacked = np.stack(arrays, axis=2)
    return stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])


def returns_to_go(target: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """Target less the rewards received before each step.

    Args:
        target: (...) target return of each trajectory.
        reward: (..., T) rewards.

    Returns:
        (..., T); the first entry is the target itself.
    """
    return target[..., None] - (np.cumsum(reward, axis=-1, dtype=np.float64) - reward)


def chain_tokens(
    layout: TokenLayout, chains: Chains, trajectories: Trajectories, reward: np.ndarray
) -> Tokens:
    """Token rows of a batch of chains, in natural order.

    Args:
        layout: of tokens.
        chains: (B, n) slots.
        trajectories: the B * n trajectories of the slots, row by row: observation (B * n, T, O),
            action (B * n, T, A).
        reward: (B * n, T) rewards of those trajectories under their slot's task.

    Returns:
        Tokens with S = n * T * layout.tokens_per_step.
    """
    rows, slots = chains.episode.shape
    length = reward.shape[-1]
    target = chains.target.reshape(-1).astype(np.float64)

    def row(x: np.ndarray) -> np.ndarray:  # (B * n, T, ...) -> (B, n * T, ...)
        return x.reshape(rows, slots * length, *x.shape[2:])

    def per_step(x: np.ndarray) -> np.ndarray:  # (B, n) -> (B, n * T)
        return np.repeat(x, length, axis=1)

    def per_token(x: np.ndarray) -> np.ndarray:  # (B, n * T) -> (B, S)
        return np.repeat(x, layout.tokens_per_step, axis=1)

    def at_decisions(
        x: np.ndarray,
    ) -> np.ndarray:  # (B, n * T, ...) -> (B, S, ...), 0 at other tokens
        spread = np.zeros((*x.shape[:2], layout.tokens_per_step, *x.shape[2:]), x.dtype)
        spread[:, :, layout.decision] = x
        return spread.reshape(rows, -1, *x.shape[2:])

    steps = Steps(
        return_to_go=row(returns_to_go(target, reward)),
        observation=row(trajectories.observation),
        action=row(trajectories.action),
        reward=row(reward),
        done=row(layout.completion(target, reward)),
        timestep=np.tile(np.arange(length, dtype=np.int32), (rows, slots)),
    )
    chain = per_step(chains.chain)
    return Tokens(
        features=layout.rows(steps, first=np.diff(chain, axis=1, prepend=-1) != 0),
        timestep=per_token(steps.timestep),
        segment=per_token(chain),
        action=at_decisions(steps.action),
        weight=at_decisions(per_step(chains.weight)),
    )
