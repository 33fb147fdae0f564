"""Defines the protocol of agents: what every kind of agent offers to the code that runs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv
from jax.sharding import Mesh

from agentic_transformer.config import EvalConfig
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
    """(batch,) target return that the trajectory's tokens carry."""
    entropy: np.ndarray | float = np.nan
    """(batch, T) in nats, of the distribution that each action was drawn from, see
    `agentic_transformer.models.heads.action_entropy`; NaN if it is not known."""


class Attempt(NamedTuple):
    """Holds one trajectory of every environment of a batch, and what it cost."""

    number: int
    """n, counted from 1: the trajectory's place in its context, itself included."""
    trajectory: Trajectory
    physics: np.ndarray
    """(batch, T + 1, P) stored physics states, for pictures."""
    encoded: int
    """Tokens per environment that went through the model for this attempt: its steps, their second
    encoding if targets are rewritten, and a prompt that was made for this attempt alone."""
    repeat_miss_rate: np.ndarray | float = np.nan
    """(batch,) of `agentic_transformer.evaluation.search_metrics`, if attempts follow each other on
    hidden tasks and the data are at hand."""
    distance: float = np.nan
    """Distance of the informative trajectory in condition `retrieval`; 1: just before this one."""

    @property
    def returns(self) -> np.ndarray:
        """Returns the sums of rewards, (batch,)."""
        return self.trajectory.reward.sum(axis=1, dtype=np.float64)

    @property
    def observations(self) -> np.ndarray:
        """Returns what the agent saw, (batch, T, O)."""
        return self.trajectory.observation

    @property
    def actions(self) -> np.ndarray:
        """Returns the agent's actions, (batch, T, A)."""
        return self.trajectory.action

    @property
    def rewards(self) -> np.ndarray:
        """Returns what each step earned, (batch, T)."""
        return self.trajectory.reward


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
    outputs: np.ndarray | None = None
    """(batch, head_size) outputs of the model for the last action, if it was drawn from a mixture,
    see `agentic_transformer.models.heads`; else None."""

    def copy(self) -> Context:
        """Returns an independent context with a cache of its own."""
        return replace(self, cache=jax.tree.map(jnp.copy, self.cache))

    def rewind(self, earlier: Context) -> Context:
        """Returns this context at an earlier position; new tokens overwrite the ones cached since.

        Args:
            earlier: a context from which this one came.
        """
        return replace(self, position=earlier.position, previous=earlier.previous)

    def observe(self, outcome: PreviousStep) -> Context:
        """Returns the context with the outcome (batch, ...) of the step that was just made."""
        return replace(self, previous=outcome)


class Agent(Protocol):
    """Describes an agent that acts for a batch of environments.

    `play` runs whole attempts. A rollout of T steps by hand:

        context = agent.new_context(batch, trajectories)
        for step in range(T):
            action, context = agent.act(context, return_to_go, observation, step, key, 1.0, 1.0)
            observation, reward, ... = env.step(action)
            context = context.observe(PreviousStep(action, reward, done))
    """

    spec: AgentSpec
    layout: TokenLayout
    """How the steps of the agent become tokens."""
    acting: EvalConfig
    """How `play` acts (seed, target, temperature, noise, window): as in the run's evaluation."""

    @staticmethod
    def init_params(spec: AgentSpec) -> Any:
        """Returns fresh parameters, as training keeps them; only their shapes and types are used.

        Args:
            spec: the agent.
        """

    @classmethod
    def from_trained(cls, params: Any, spec: AgentSpec, mesh: Mesh | None = None) -> Agent:
        """Returns the agent that training made.

        Args:
            params: its parameters, as training keeps them.
            spec: the agent as it was trained.
            mesh: devices over which the agent's caches are sharded; None: one device.
        """

    def play(
        self,
        env: gymnasium.Env | VectorEnv,
        attempts: int = 8,
        *,
        seed: int | None = None,
        target: float | None = None,
        temperature: float | None = None,
        noise: float | None = None,
    ) -> list[Attempt]:
        """Runs successive attempts at one hidden task, in a context that grows.

        The attempts are those of condition "own" of an evaluation with the same seed and number of
        attempts: finished ones are encoded again as training data are. If the run's evaluation has
        a window, older attempts are forgotten as there. Each environment keeps the task that its
        first reset draws.

        Args:
            env: of `envs.make` or `envs.make_vec`. Actions are held as in training, and an attempt
                has the steps of training.
            attempts: how many.
            seed: of the starts and actions; None: `acting.seed`.
            target: target return, as a share of the best in the training data; None: of `acting`.
            temperature: see `act`; None: of `acting`.
            noise: see `act`; None: of `acting`.

        Returns:
            The attempts, each with `number`, `returns` (batch,), `observations` (batch, T, O),
            `actions` (batch, T, A), `rewards` (batch, T) and `physics` (batch, T + 1, P). A single
            environment is a batch of one.

        Raises:
            ValueError: the environments are not of `envs`, or do not fit the agent.
        """

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
