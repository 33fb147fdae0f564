"""Holds what TD3, TD3+BC, IQL, CQL and CRR share: the learner around a step, and its parts.

They are references from outside sequence modelling, and learn from single transitions. Episodes
end by a time limit alone, so no transition is terminal. Training uses one device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentic_transformer.config import (
    ActorCriticConfig,
    CRRConfig,
    TD3BCConfig,
    TD3Config,
    TrainCommand,
)
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.transitions import TransitionLoader, Transitions
from agentic_transformer.models.actor_critic import Graphs, Params, Shape, init_networks
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.training.computation import describe_computation
from agentic_transformer.training.state import TrainState

Step = Callable[[TrainState, Transitions], tuple[TrainState, dict[str, jax.Array]]]
"""One training step of (state, batch) -> (state, metrics)."""


class ActorCriticLearner(ABC):
    """Trains networks with transitions, see `agentic_transformer.training.learner.Learner`.

    A subclass for each method makes the training step.
    """

    def __init__(self, config: TrainCommand, data: RelabelledDataset, spec: AgentSpec) -> None:
        """Prepares the networks, the training step and the batches.

        Args:
            config: all settings.
            data: trajectories and rewards.
            spec: the agent, with the settings of the method.
        """
        shape = Shape.of(spec)
        self._method = shape.config
        graphs, self._params = init_networks(shape, config.seed)
        self.tokens_per_batch = 0
        self.computation = describe_computation(config.model.precision, jax.devices()[:1])
        self.make_batch = TransitionLoader(data, spec.layout(), self._method.batch, config.seed)
        self.train_step = self.make_step(graphs, config)

    @abstractmethod
    def make_step(self, graphs: Graphs, config: TrainCommand) -> Step:
        """Returns a compiled training step.

        Args:
            graphs: structures of the networks.
            config: all settings.
        """

    def init_state(self) -> TrainState:
        """Returns a fresh train state."""
        return init_actor_critic_state(self._params, self._method)

    def abstract_state(self) -> TrainState:
        """Returns a train state, to be filled from a checkpoint; the small networks are made."""
        return self.init_state()

    def learning_rate(self, step: int) -> float:
        """Returns the learning rate, which is constant."""
        return self._method.learning_rate


def trained_names(params: Iterable[str]) -> list[str]:
    """Returns the names of the networks that have an optimizer: all but the target networks."""
    return [name for name in params if not name.startswith("target_")]


def init_actor_critic_state(params: Params, config: ActorCriticConfig | TD3Config) -> TrainState:
    """Returns the train state before the first step."""
    optimizer = optax.adam(config.learning_rate)
    states = {name: optimizer.init(params[name]) for name in trained_names(params)}
    return TrainState(jnp.zeros((), jnp.int32), params, states)


def compile_step(update: Step, precision: str) -> Step:
    """Compiles a training step; what is returned consumes the state.

    Args:
        update: the step.
        precision: of float32 products, see `agentic_transformer.models.precision`.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Transitions) -> tuple[TrainState, dict[str, jax.Array]]:
        with matmul_precision(precision):
            return update(state, batch)

    return step


def descend(
    optimizer: optax.GradientTransformation,
    name: str,
    params: Params,
    states: dict[str, Any],
    grads: nnx.State,
) -> tuple[Params, dict[str, Any]]:
    """Returns all parameters and optimizer states after one network's step down its gradient."""
    updates, state = optimizer.update(grads, states[name])
    return params | {name: optax.apply_updates(params[name], updates)}, states | {name: state}


def move_targets(params: Params, tau: float) -> Params:
    """Returns the parameters after every target network has moved toward its network.

    theta' <- (1 - tau) theta' + tau theta    (Polyak averaging)
    """
    targets = {
        f"target_{name}": jax.tree.map(
            lambda old, new: (1 - tau) * old + tau * new, params[f"target_{name}"], params[name]
        )
        for name in trained_names(params)
        if f"target_{name}" in params
    }
    return params | targets


def noisy_action(
    action: jax.Array, config: TD3BCConfig | TD3Config | CRRConfig, key: jax.Array
) -> jax.Array:
    """Returns actions with clipped Gaussian noise, within [-1, 1].

    clip(a + epsilon, -1, 1),    epsilon = clip(noise N(0, 1), -noise_clip, noise_clip)
    """
    epsilon = config.noise * jax.random.normal(key, action.shape)
    epsilon = jnp.clip(epsilon, -config.noise_clip, config.noise_clip)
    return jnp.clip(action + epsilon, -1, 1)


def critic_target(
    graphs: Graphs,
    params: Params,
    config: TD3BCConfig | TD3Config | CRRConfig,
    batch: Transitions,
    key: jax.Array,
) -> jax.Array:
    """Returns the value that both critics learn to predict in TD3, TD3+BC and CRR, (B,).

        y = r + gamma min_i Q'_i(s', clip(pi'(s') + epsilon, -1, 1))

    Primes mark target networks, s' is the next observation, and epsilon is clipped Gaussian noise.
    """
    action = nnx.merge(graphs.actor, params["target_actor"])(batch.next_observation)
    critics = nnx.merge(graphs.critics, params["target_critics"])
    values = critics(batch.next_observation, noisy_action(action, config, key))  # (2, B)
    return batch.reward + config.discount * values.min(axis=0)


def critic_loss(
    graphs: Graphs, critics: nnx.State, batch: Transitions, target: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum over both critics of mean((Q_i(s, a) - y)^2), and the mean value."""
    values = nnx.merge(graphs.critics, critics)(batch.observation, batch.action)  # (2, B)
    return jnp.mean((values - target) ** 2, axis=1).sum(), values.mean()
