"""Trains CQL: conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779).

A penalty lowers the critics' values of actions that the data lack, so that the actor is not drawn
to them. Otherwise the method is soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), whose
actor is random in training and acts by its mean. This is the paper's CQL(H) with a constant weight
of the penalty. As in the authors' code, the critics' target has no entropy. The main differences
from that code: training does not begin with cloning, the penalty draws no actions from the next
observation, the critics are updated before the actor, and all networks have one learning rate.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentic_transformer.config import CQLConfig, TrainCommand
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Graphs
from agentic_transformer.training.actor_critic import (
    ActorCriticLearner,
    Step,
    compile_step,
    critic_loss,
    descend,
    move_targets,
)
from agentic_transformer.training.state import TrainState


class CQLLearner(ActorCriticLearner):
    """Trains by CQL."""

    def make_step(self, graphs: Graphs, config: TrainCommand) -> Step:
        """Returns a compiled training step; the settings of the method are `config.cql`."""
        return make_cql_step(graphs, config.cql, config.seed, config.model.precision)


def log_mean_exp_values(
    graphs: Graphs,
    critics: nnx.State,
    batch: Transitions,
    proposals: list[tuple[jax.Array, jax.Array]],
) -> jax.Array:
    """Returns estimates of log of the integral of exp(Q_i(s, a)) over all actions a, (2, B).

        log 1/M sum_j exp(Q_i(s, a_j) - log rho_j(a_j))

    This is importance sampling: each draw is weighted by the density it was drawn with.

    Args:
        graphs: structures of the networks.
        critics: parameters of Q_1 and Q_2.
        batch: transitions.
        proposals: (N, B, A) actions a_j and (N, B) log rho_j, of distributions with N draws each.
    """
    actions, log_density = (jnp.concatenate(parts) for parts in zip(*proposals, strict=True))
    observation = jnp.broadcast_to(batch.observation, (len(actions), *batch.observation.shape))
    values = nnx.merge(graphs.critics, critics)(observation, actions)  # (2, M, B)
    return jax.nn.logsumexp(values - log_density, axis=1) - math.log(len(actions))


def conservative_loss(
    graphs: Graphs,
    critics: nnx.State,
    config: CQLConfig,
    batch: Transitions,
    target: jax.Array,
    proposals: list[tuple[jax.Array, jax.Array]],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the loss of the critics, which sums over both, their penalty and their mean value.

        sum_i mean((Q_i(s, a) - y)^2) + alpha mean(log int exp(Q_i(s, a')) da' - Q_i(s, a))

    Args:
        graphs: structures of the networks.
        critics: parameters of Q_1 and Q_2.
        config: `alpha` is the weight of the penalty.
        batch: transitions.
        target: (B,) y.
        proposals: actions that estimate the integral, see `log_mean_exp_values`.
    """
    error, value = critic_loss(graphs, critics, batch, target)
    anywhere = log_mean_exp_values(graphs, critics, batch, proposals)  # (2, B)
    penalty = 2 * (anywhere.mean() - value)
    return error + config.alpha * penalty, (penalty, value)


def actor_loss(
    graphs: Graphs,
    actor: nnx.State,
    critics: nnx.State,
    entropy_weight: jax.Array,
    batch: Transitions,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the actor's loss, and the mean logarithm of its density.

        mean(w log pi(a|s) - min_i Q_i(s, a)),    a from pi(.|s)

    Args:
        graphs: structures of the networks.
        actor: parameters of pi.
        critics: parameters of Q_1 and Q_2.
        entropy_weight: w.
        batch: transitions.
        key: of the draws.
    """
    (action,), (log_density,) = nnx.merge(graphs.actor, actor).sample(batch.observation, key, 1)
    values = nnx.merge(graphs.critics, critics)(batch.observation, action).min(axis=0)  # (B,)
    return jnp.mean(entropy_weight * log_density - values), log_density.mean()


def entropy_loss(
    graphs: Graphs, entropy_weight: nnx.State, log_density: jax.Array, actions: int
) -> jax.Array:
    """Returns the loss of the entropy's weight w, which keeps the entropy near -A.

        -w (mean(log pi(a|s)) - A)

    The weight rises while the entropy -log pi is below -A, and falls while it is above.

    Args:
        graphs: structures of the networks.
        entropy_weight: parameters of w.
        log_density: () mean of log pi(a|s).
        actions: A, the size of an action.
    """
    return -nnx.merge(graphs.entropy_weight, entropy_weight)() * (log_density - actions)


def make_cql_step(graphs: Graphs, config: CQLConfig, seed: int, precision: str = "highest") -> Step:
    """Returns one training step: it updates critics, actor, entropy weight and target critics.

    The critics learn to predict y = r + gamma min_i Q'_i(s', a'), with a' from pi(.|s').

    Args:
        graphs: structures of the networks.
        config: settings of the method.
        seed: draws depend only on the seed and the step.
        precision: of float32 products, see `agentic_transformer.models.precision`.

    Returns:
        A compiled function of (state, batch) -> (state, metrics). It consumes the state.
    """
    optimizer = optax.adam(config.learning_rate)

    def update(state: TrainState, batch: Transitions) -> tuple[TrainState, dict[str, jax.Array]]:
        params, states = state.params, state.optimizer
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step), 4)
        actor = nnx.merge(graphs.actor, params["actor"])
        target_critics = nnx.merge(graphs.critics, params["target_critics"])

        (action,), _ = actor.sample(batch.next_observation, keys[0], 1)
        future = target_critics(batch.next_observation, action).min(axis=0)  # (B,)
        target = batch.reward + config.discount * future
        even = jax.random.uniform(
            keys[1], (config.samples, *batch.action.shape), minval=-1, maxval=1
        )
        log_even = jnp.full(even.shape[:2], -math.log(2) * even.shape[-1])
        proposals = [(even, log_even), actor.sample(batch.observation, keys[2], config.samples)]
        (loss, (penalty, value)), grads = jax.value_and_grad(
            partial(conservative_loss, graphs), has_aux=True
        )(params["critics"], config, batch, target, proposals)
        params, states = descend(optimizer, "critics", params, states, grads)

        weight = nnx.merge(graphs.entropy_weight, params["entropy_weight"])()
        grads, log_density = jax.grad(partial(actor_loss, graphs), has_aux=True)(
            params["actor"], params["critics"], weight, batch, keys[3]
        )
        params, states = descend(optimizer, "actor", params, states, grads)
        grads = jax.grad(partial(entropy_loss, graphs))(
            params["entropy_weight"], log_density, batch.action.shape[-1]
        )
        params, states = descend(optimizer, "entropy_weight", params, states, grads)
        params = move_targets(params, config.tau)
        metrics = {"loss": loss, "penalty": penalty, "value": value}
        return TrainState(state.step + 1, params, states), metrics

    return compile_step(update, precision)
