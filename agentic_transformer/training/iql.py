"""Trains IQL: implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169).

The critics never see an action that is not in the data, so no value depends on such an action. The
actor imitates the data's actions, most of all those with a large advantage. The order of updates is
that of the authors' code. Two things differ from it: the actor has no variance, so that its
likelihood is a squared error, and its learning rate is constant.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentic_transformer.config import IQLConfig, TrainCommand
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Graphs
from agentic_transformer.models.value_head import expectile_loss
from agentic_transformer.training.actor_critic import (
    ActorCriticLearner,
    Step,
    compile_step,
    critic_loss,
    descend,
    move_targets,
)
from agentic_transformer.training.state import TrainState

_LARGEST_WEIGHT = 100.0
"""Largest weight of an action: the authors' bound, which keeps the exponential from overflowing."""


class IQLLearner(ActorCriticLearner):
    """Trains by IQL."""

    def make_step(self, graphs: Graphs, config: TrainCommand) -> Step:
        """Returns a compiled training step; the settings of the method are `config.iql`."""
        return make_iql_step(graphs, config.iql, config.model.precision)


def value_loss(
    graphs: Graphs, value: nnx.State, config: IQLConfig, batch: Transitions, action_value: jax.Array
) -> jax.Array:
    """Returns the loss of the state's value: expectile regression to the value of the action.

        mean(|eta - 1[u < 0]| u^2),    u = q - V(s)

    Args:
        graphs: structures of the networks.
        value: parameters of V.
        config: `expectile` is eta.
        batch: transitions.
        action_value: (B,) q = min_i Q'_i(s, a) of the target critics.
    """
    error = action_value - nnx.merge(graphs.value, value)(batch.observation)
    return jnp.mean(expectile_loss(error, config.expectile))


def actor_loss(
    graphs: Graphs, actor: nnx.State, config: IQLConfig, batch: Transitions, advantage: jax.Array
) -> jax.Array:
    """Returns the loss of the actor: cloning, weighted by the advantage.

        mean(min(exp(beta A), 100) (pi(s) - a)^2)

    Args:
        graphs: structures of the networks.
        actor: parameters of pi.
        config: `temperature` is beta.
        batch: transitions.
        advantage: (B,) A = min_i Q'_i(s, a) - V(s).
    """
    weight = jnp.minimum(jnp.exp(config.temperature * advantage), _LARGEST_WEIGHT)  # (B,)
    action = nnx.merge(graphs.actor, actor)(batch.observation)
    return jnp.mean(weight[:, None] * (action - batch.action) ** 2)


def make_iql_step(graphs: Graphs, config: IQLConfig, precision: str = "highest") -> Step:
    """Returns one training step: it updates value, actor, critics and target critics, in turn.

    The critics learn to predict y = r + gamma V(s').

    Args:
        graphs: structures of the networks.
        config: settings of the method.
        precision: of float32 products, see `agentic_transformer.models.precision`.

    Returns:
        A compiled function of (state, batch) -> (state, metrics). It consumes the state.
    """
    optimizer = optax.adam(config.learning_rate)

    def update(state: TrainState, batch: Transitions) -> tuple[TrainState, dict[str, jax.Array]]:
        params, states = state.params, state.optimizer
        target_critics = nnx.merge(graphs.critics, params["target_critics"])
        action_value = target_critics(batch.observation, batch.action).min(axis=0)  # (B,)

        grads = jax.grad(partial(value_loss, graphs))(params["value"], config, batch, action_value)
        params, states = descend(optimizer, "value", params, states, grads)

        value = nnx.merge(graphs.value, params["value"])
        advantage = action_value - value(batch.observation)
        grads = jax.grad(partial(actor_loss, graphs))(params["actor"], config, batch, advantage)
        params, states = descend(optimizer, "actor", params, states, grads)

        target = batch.reward + config.discount * value(batch.next_observation)
        (loss, mean), grads = jax.value_and_grad(partial(critic_loss, graphs), has_aux=True)(
            params["critics"], batch, target
        )
        params, states = descend(optimizer, "critics", params, states, grads)
        params = move_targets(params, config.tau)
        return TrainState(state.step + 1, params, states), {"loss": loss, "value": mean}

    return compile_step(update, precision)
