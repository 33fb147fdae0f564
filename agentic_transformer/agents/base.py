"""Defines what an agent is to those that run it: one protocol for every kind of agent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.contexts.tokens import PreviousStep, TokenLayout
from agentic_transformer.models.spec import AgentSpec

LayerCache = tuple[jax.Array, jax.Array]
"""Keys and values of one layer, each (batch, capacity, heads, head_dim)."""


class Trajectory(NamedTuple):
    """Holds one finished trajectory of each environment of a batch."""

    observation: np.ndarray
    """(batch, T, O)."""
    action: np.ndarray
    """(batch, T, A)."""
    reward: np.ndarray
    """(batch, T) raw."""
    target: np.ndarray
    """(batch,) target return (relabelled afterwards if target=own)."""


@dataclass(frozen=True)
class Context:
    """Holds what the agents of a batch remember.

    `Agent.act` and `Agent.append` consume a context and return the next one. `copy` it first to go
    on from it twice.
    """

    cache: tuple[LayerCache, ...]
    """Keys and values of all layers; empty for an agent without memory."""
    position: int
    """Tokens in the cache, the same number for every environment."""
    previous: PreviousStep
    """(batch, ...) outcome of the last step, which the next token carries."""
    encoded: int
    """Tokens per environment that went through the model so far, repeated ones included."""

    def copy(self) -> Context:
        """Returns an independent context with a cache of its own."""
        return replace(self, cache=jax.tree.map(jnp.copy, self.cache))

    def rewind(self, earlier: Context) -> Context:
        """Returns this context at an earlier position: what was cached since will be overwritten.

        Args:
            earlier: a context from which this one came.
        """
        return replace(self, position=earlier.position, previous=earlier.previous)

    def observe(self, outcome: PreviousStep) -> Context:
        """Returns the context with the outcome (batch, ...) of the step that was just made."""
        return replace(self, previous=outcome)


class Agent(Protocol):
    """Describes an agent that acts for a batch of environments.

    A rollout of T steps:

        context = agent.new_context(batch, trajectories)
        for step in range(T):
            action, context = agent.act(context, return_to_go, observation, step, key, 1.0, 1.0)
            observation, reward, ... = env.step(action)
            context = context.observe(PreviousStep(action, reward, done))
    """

    spec: AgentSpec
    layout: TokenLayout
    """How the steps of the agent become tokens."""

    def new_context(self, batch: int, trajectories: int) -> Context:
        """Returns empty contexts for a batch of environments.

        Args:
            batch: number of environments.
            trajectories: how many trajectories each context can hold.
        """

    def act(
        self,
        context: Context,
        return_to_go: np.ndarray,
        observation: np.ndarray,
        timestep: int,
        key: jax.Array,
        temperature: float,
        noise: float,
    ) -> tuple[np.ndarray, Context]:
        """Returns actions for one step of every environment.

        Args:
            context: what the agents remember; consumed.
            return_to_go: (batch,) raw.
            observation: (batch, O) raw.
            timestep: step within the trajectory.
            key: random key of the trajectory; the draws of this step are those of
                `jax.random.fold_in(key, timestep)`.
            temperature: of the choice among components, see
                `agentic_transformer.models.heads.draw_action`.
            noise: scale of the Gaussian.

        Returns:
            Actions (batch, A) within [-1, 1], and the context with this step.

        Raises:
            ValueError: the context is full.
        """

    def append(self, context: Context, trajectory: Trajectory) -> Context:
        """Adds a finished trajectory of each environment to the contexts.

        Args:
            context: what the agents remember; consumed.
            trajectory: one for each environment, conditioned on `trajectory.target`.

        Returns:
            The context that ends with the trajectories.

        Raises:
            ValueError: the contexts cannot hold them.
        """
