"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): temporal differences, held near the data by a
behaviour-cloning term.

ExoRL (arXiv 2201.13425) finds plain temporal-difference learning strong on exploratory data, so it
is the reference from outside sequence modelling. Twin critics with smoothed targets and a delayed
actor are TD3's (arXiv 1802.09477). Episodes end by a time limit alone, so no transition is
terminal, and the last one of a trajectory, whose next observation is not kept, is left out. One
device trains it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from agentic_transformer.agents.transformer import Context
from agentic_transformer.config import TD3BCConfig
from agentic_transformer.contexts.relabelled import RelabelledDataset
from agentic_transformer.contexts.tokens import PreviousStep
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.random_streams import stream
from agentic_transformer.training.step import TrainState

Params = dict[str, nnx.State]
"""Of `actor`, `critics`, `target_actor` and `target_critics`."""


class Transitions(NamedTuple):
    """A batch of transitions; observations and rewards as the networks see them."""

    observation: np.ndarray
    """(B, O)"""
    action: np.ndarray
    """(B, A)"""
    reward: np.ndarray
    """(B,)"""
    following: np.ndarray
    """(B, O), the observation after the action."""


class TransitionLoader:
    """Transitions of any training step, drawn uniformly from all trajectories under all tasks,
    which are held in memory.
    """

    def __init__(
        self, data: RelabelledDataset, description: AgentSpec, batch: int, seed: int
    ) -> None:
        """Reads the trajectories.

        Args:
            data: trajectories and rewards.
            description: of the agent; its layout scales what is seen.
            batch: transitions a step.
            seed: of all draws.

        Raises:
            ValueError: trajectories of one step hold no transition.
        """
        if description.steps < 2:
            raise ValueError(
                "agent=td3_bc needs trajectories of at least 2 steps (data.horizon, data.action_repeat)"
            )
        self._data, self._layout, self._batch, self._seed = data, description.layout(), batch, seed
        self._trajectories = data.store.load(np.arange(data.store.episodes))

    def __call__(self, step: int) -> Transitions:
        """The transitions of a step, a function of the seed and the step alone."""
        rng = stream("transitions", self._seed, step)
        tasks, (episodes, length) = len(self._data.returns), self._trajectories.action.shape[:2]
        task, episode, at = (
            rng.integers(count, size=self._batch) for count in (tasks, episodes, length - 1)
        )
        observation, action = self._trajectories
        see = self._layout.standardised
        return Transitions(
            observation=see(observation[episode, at]).astype(np.float32),
            action=action[episode, at],
            reward=self._layout.scaled(self._data.rewards(task, episode, at)).astype(np.float32),
            following=see(observation[episode, at + 1]).astype(np.float32),
        )


class Actor(nnx.Module):
    """Observation -> action."""

    def __init__(self, description: AgentSpec, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        self.layers = _layers(
            description.observation_size, description.action_size, description.td3_bc, rngs
        )

    def __call__(self, observation: jax.Array) -> jax.Array:
        """(..., O) -> (..., A) within [-1, 1]."""
        return jnp.tanh(_through(self.layers, observation))


class Critics(nnx.Module):
    """Observation and action -> two estimates of the discounted return."""

    def __init__(self, description: AgentSpec, rngs: nnx.Rngs) -> None:
        """Initialises the parameters."""
        size = description.observation_size + description.action_size
        self.twins = nnx.List([_layers(size, 1, description.td3_bc, rngs) for _ in range(2)])

    def __call__(self, observation: jax.Array, action: jax.Array) -> jax.Array:
        """(B, O) and (B, A) -> (2, B)."""
        seen = jnp.concatenate([observation, action], axis=-1)
        return jnp.stack([_through(layers, seen)[..., 0] for layers in self.twins])


def _layers(inputs: int, outputs: int, config: TD3BCConfig, rngs: nnx.Rngs) -> nnx.List:
    sizes = [inputs, *[config.width] * config.layers, outputs]
    return nnx.List(
        [nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    )


def _through(layers: nnx.List, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = nnx.relu(layer(x))
    return layers[-1](x)


class Networks(NamedTuple):
    """Structures, to be merged with parameters."""

    actor: nnx.GraphDef
    critics: nnx.GraphDef


def init(description: AgentSpec, seed: int) -> tuple[Networks, Params]:
    """Fresh networks; the targets begin as what they follow."""
    rngs = nnx.Rngs(seed)
    (actor_graph, actor), (critics_graph, critics) = (
        nnx.split(kind(description, rngs), nnx.Param) for kind in (Actor, Critics)
    )
    copies = jax.tree.map(jnp.copy, {"target_actor": actor, "target_critics": critics})
    return Networks(actor_graph, critics_graph), {"actor": actor, "critics": critics, **copies}


def init_state(params: Params, config: TD3BCConfig) -> TrainState:
    """Train state before the first step."""
    optimizer = optax.adam(config.learning_rate)
    states = {name: optimizer.init(params[name]) for name in ("actor", "critics")}
    return TrainState(jnp.zeros((), jnp.int32), params, states)


def critic_target(
    networks: Networks, params: Params, config: TD3BCConfig, batch: Transitions, key: jax.Array
) -> jax.Array:
    """What both critics are drawn toward, (B,): reward and the lower discounted value, by the
    targets, of a noisy action.
    """
    noise = jnp.clip(
        config.noise * jax.random.normal(key, batch.action.shape),
        -config.noise_clip,
        config.noise_clip,
    )
    action = nnx.merge(networks.actor, params["target_actor"])(batch.following) + noise
    values = nnx.merge(networks.critics, params["target_critics"])(
        batch.following, jnp.clip(action, -1, 1)
    )
    return batch.reward + config.discount * values.min(axis=0)


def actor_loss(
    networks: Networks,
    actor: nnx.State,
    critics: nnx.State,
    config: TD3BCConfig,
    batch: Transitions,
) -> jax.Array:
    """Squared distance to the data's actions less the first critic's value, whose scale `alpha`
    sets against the former.
    """
    action = nnx.merge(networks.actor, actor)(batch.observation)
    value = nnx.merge(networks.critics, critics)(batch.observation, action)[0]
    weight = config.alpha / jnp.maximum(jax.lax.stop_gradient(jnp.abs(value).mean()), 1e-8)
    return jnp.mean((action - batch.action) ** 2) - weight * value.mean()


def make_step(
    networks: Networks, config: TD3BCConfig, seed: int
) -> Callable[[TrainState, Transitions], tuple[TrainState, dict[str, jax.Array]]]:
    """One step of training: the critics, and every `delay` steps the actor and the targets.

    Args:
        networks: structures.
        config: of the method.
        seed: of the noise; the noise of a step depends on it and the step alone.
    """
    optimizer = optax.adam(config.learning_rate)

    def updated(
        name: str, params: Params, states: dict[str, Any], gradient: nnx.State
    ) -> tuple[Params, dict[str, Any]]:
        updates, after = optimizer.update(gradient, states[name])
        return params | {name: optax.apply_updates(params[name], updates)}, states | {name: after}

    def with_actor(
        params: Params, states: dict[str, Any], batch: Transitions
    ) -> tuple[Params, dict[str, Any]]:
        gradient = jax.grad(partial(actor_loss, networks))(
            params["actor"], params["critics"], config, batch
        )
        params, states = updated("actor", params, states, gradient)
        following = {
            f"target_{name}": _toward(params[f"target_{name}"], params[name], config.tau)
            for name in states
        }
        return params | following, states

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Transitions) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        target = critic_target(networks, state.params, config, batch, key)

        def critic_loss(critics: nnx.State) -> tuple[jax.Array, jax.Array]:
            values = nnx.merge(networks.critics, critics)(batch.observation, batch.action)
            return jnp.mean((values - target) ** 2, axis=1).sum(), values.mean()

        (loss, value), gradient = jax.value_and_grad(critic_loss, has_aux=True)(
            state.params["critics"]
        )
        params, states = updated("critics", state.params, state.optimizer, gradient)
        params, states = jax.lax.cond(
            (state.step + 1) % config.delay == 0,
            with_actor,
            lambda params, states, _: (params, states),
            params,
            states,
            batch,
        )
        return TrainState(state.step + 1, params, states), {"loss": loss, "value": value}

    return step


def _toward(target: nnx.State, source: nnx.State, tau: float) -> nnx.State:
    return jax.tree.map(lambda old, new: (1 - tau) * old + tau * new, target, source)


class TD3BCPolicy:
    """The trained actor, with the interface of `agentic_transformer.agents.transformer.Policy`: it
    looks at the observation alone.
    """

    def __init__(self, networks: Networks, params: Params, description: AgentSpec) -> None:
        """Holds a trained actor."""
        self.description = description
        self.layout = description.layout()
        self._act = jax.jit(nnx.merge(networks.actor, params["actor"]))

    def new_context(self, batch: int, trajectories: int) -> Context:
        """A context that remembers nothing."""
        return Context((), 0, PreviousStep.nothing(batch, self.description.action_size), 0)

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
        """Actions for one step of every environment, see `Policy.act`; deterministic."""
        action = self._act(self.layout.standardised(observation).astype(np.float32))
        return np.asarray(action), replace(context, encoded=context.encoded + 1)
