"""Trains TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), or plain TD3.

TD3+BC learns by temporal differences, and a behaviour-cloning term holds it near the data. TD3 has
no such term: ExoRL (arXiv 2201.13425) finds that data which explore need no pessimism. Twin critics
with smoothed targets and a delayed actor are TD3's (Fujimoto et al. 2018, arXiv 1802.09477).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentic_transformer.config import TD3BCConfig, TD3Config, TrainCommand
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Graphs, Params
from agentic_transformer.training.actor_critic import (
    ActorCriticLearner,
    Step,
    compile_step,
    critic_loss,
    critic_target,
    descend,
    move_targets,
)
from agentic_transformer.training.state import TrainState


class TD3BCLearner(ActorCriticLearner):
    """Trains by TD3+BC or TD3."""

    def make_step(self, graphs: Graphs, config: TrainCommand) -> Step:
        """Returns a compiled training step; the settings of the method are `config.td3_bc`."""
        clones = config.agent.learner == "td3_bc"
        return make_td3_bc_step(graphs, config.td3_bc, config.seed, config.model.precision, clones)


def actor_loss(
    graphs: Graphs,
    actor: nnx.State,
    critics: nnx.State,
    config: TD3BCConfig,
    batch: Transitions,
) -> jax.Array:
    """Returns the actor's loss of TD3+BC: cloning error, minus the value of the actor's action.

        mean((pi(s) - a)^2) - lambda mean(Q_1(s, pi(s)))

    lambda = alpha / max(mean|Q_1|, 1e-8) makes the loss independent of the scale of values. No
    gradient flows through lambda.
    """
    action = nnx.merge(graphs.actor, actor)(batch.observation)
    value = nnx.merge(graphs.critics, critics)(batch.observation, action)[0]
    value_weight = config.alpha / jnp.maximum(jax.lax.stop_gradient(jnp.abs(value).mean()), 1e-8)
    return jnp.mean((action - batch.action) ** 2) - value_weight * value.mean()


def td3_actor_loss(
    graphs: Graphs,
    actor: nnx.State,
    critics: nnx.State,
    config: TD3BCConfig | TD3Config,
    batch: Transitions,
) -> jax.Array:
    """Returns the actor's loss of TD3: -mean(Q_1(s, pi(s)))."""
    action = nnx.merge(graphs.actor, actor)(batch.observation)
    return -nnx.merge(graphs.critics, critics)(batch.observation, action)[0].mean()


def make_td3_bc_step(
    graphs: Graphs,
    config: TD3BCConfig,
    seed: int,
    precision: str = "highest",
    clones: bool = True,
) -> Step:
    """Returns one training step: it updates the critics, and every `delay` steps all else too.

    Args:
        graphs: structures of the networks.
        config: settings of the method.
        seed: noise depends only on the seed and the step.
        precision: of float32 products, see `agentic_transformer.models.precision`.
        clones: whether actions of the data are cloned (TD3+BC), or not (TD3).

    Returns:
        A compiled function of (state, batch) -> (state, metrics). It consumes the state.
    """
    loss = actor_loss if clones else td3_actor_loss
    return compile_step(make_td3_update(graphs, config, seed, loss), precision)


def make_td3_update(
    graphs: Graphs,
    config: TD3BCConfig | TD3Config,
    seed: int,
    actor_loss: Callable[..., jax.Array],
) -> Step:
    """Returns what TD3 and TD3+BC do in a training step, to be traced.

    Args:
        graphs: structures of the networks.
        config: settings of the method.
        seed: noise depends only on the seed and the step.
        actor_loss: (graphs, actor, critics, config, batch) -> the loss of the actor.
    """
    optimizer = optax.adam(config.learning_rate)

    def update_actor_and_targets(
        params: Params, states: dict[str, Any], batch: Transitions
    ) -> tuple[Params, dict[str, Any]]:
        grads = jax.grad(partial(actor_loss, graphs))(
            params["actor"], params["critics"], config, batch
        )
        params, states = descend(optimizer, "actor", params, states, grads)
        return move_targets(params, config.tau), states

    def update_all(
        state: TrainState, batch: Transitions
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        target = critic_target(graphs, state.params, config, batch, key)
        (loss, value), grads = jax.value_and_grad(partial(critic_loss, graphs), has_aux=True)(
            state.params["critics"], batch, target
        )
        params, states = descend(optimizer, "critics", state.params, state.optimizer, grads)
        params, states = jax.lax.cond(
            (state.step + 1) % config.delay == 0,
            update_actor_and_targets,
            lambda params, states, _: (params, states),
            params,
            states,
            batch,
        )
        return TrainState(state.step + 1, params, states), {"loss": loss, "value": value}

    return update_all
