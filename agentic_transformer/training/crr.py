"""Trains CRR: critic regularized regression (Wang et al. 2020, arXiv 2006.15134).

The actor clones those actions of the data that the critics value above its own actions. This is the
paper's binary weight, max(0, sign(A)). The critics and their target are those of TD3, and the actor
has no variance. The paper has one critic, of a distribution of returns, and an actor with a learned
variance.

All hidden layers are normalized. (ExoRL's code normalizes the first one, in other learners too.)
Without this, values of planned episodes of the cheetah grew to a million: the actor clones the
actions that the critics value too much, and the critics learn from the values of what it then does.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agentic_transformer.config import CRRConfig, TrainCommand
from agentic_transformer.contexts.transitions import Transitions
from agentic_transformer.models.actor_critic import Graphs
from agentic_transformer.training.actor_critic import (
    ActorCriticLearner,
    Step,
    compile_step,
    critic_loss,
    critic_target,
    descend,
    move_targets,
    noisy_action,
)
from agentic_transformer.training.state import TrainState


class CRRLearner(ActorCriticLearner):
    """Trains by CRR."""

    def make_step(self, graphs: Graphs, config: TrainCommand) -> Step:
        """Returns a compiled training step; the settings of the method are `config.crr`."""
        return make_crr_step(graphs, config.crr, config.seed, config.model.precision)


def advantage(
    graphs: Graphs,
    actor: nnx.State,
    critics: nnx.State,
    config: CRRConfig,
    batch: Transitions,
    key: jax.Array,
) -> jax.Array:
    """Returns by how much the data's action is better than the actor's actions, (B,).

        A = Q(s, a) - 1/m sum_j Q(s, a_j),    a_j = clip(pi(s) + epsilon_j, -1, 1)

    Q is the smaller of both critics.

    Args:
        graphs: structures of the networks.
        actor: parameters of pi.
        critics: parameters of Q_1 and Q_2.
        config: `samples` is m; epsilon is Gaussian noise, clipped.
        batch: transitions.
        key: of the noise.
    """
    shape = (config.samples, *batch.action.shape)
    action = nnx.merge(graphs.actor, actor)(batch.observation)
    actions = noisy_action(jnp.broadcast_to(action, shape), config, key)  # (m, B, A)
    observation = jnp.broadcast_to(batch.observation, (config.samples, *batch.observation.shape))
    value = nnx.merge(graphs.critics, critics)
    own = value(observation, actions).min(axis=0).mean(axis=0)  # (B,)
    return value(batch.observation, batch.action).min(axis=0) - own


def actor_loss(
    graphs: Graphs, actor: nnx.State, batch: Transitions, advantage: jax.Array
) -> jax.Array:
    """Returns the loss of the actor: cloning of the actions with an advantage.

        mean(1[A > 0] (pi(s) - a)^2)

    Args:
        graphs: structures of the networks.
        actor: parameters of pi.
        batch: transitions.
        advantage: (B,) A.
    """
    action = nnx.merge(graphs.actor, actor)(batch.observation)
    return jnp.mean((advantage > 0)[:, None] * (action - batch.action) ** 2)


def make_crr_step(graphs: Graphs, config: CRRConfig, seed: int, precision: str = "highest") -> Step:
    """Returns one training step: it updates the critics, the actor and the target networks.

    Args:
        graphs: structures of the networks.
        config: settings of the method.
        seed: noise depends only on the seed and the step.
        precision: of float32 products, see `agentic_transformer.models.precision`.

    Returns:
        A compiled function of (state, batch) -> (state, metrics). It consumes the state.
    """
    optimizer = optax.adam(config.learning_rate)

    def update(state: TrainState, batch: Transitions) -> tuple[TrainState, dict[str, jax.Array]]:
        params, states = state.params, state.optimizer
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        target = critic_target(graphs, params, config, batch, keys[0])
        (loss, value), grads = jax.value_and_grad(partial(critic_loss, graphs), has_aux=True)(
            params["critics"], batch, target
        )
        params, states = descend(optimizer, "critics", params, states, grads)
        better = advantage(graphs, params["actor"], params["critics"], config, batch, keys[1])
        grads = jax.grad(partial(actor_loss, graphs))(params["actor"], batch, better)
        params, states = descend(optimizer, "actor", params, states, grads)
        params = move_targets(params, config.tau)
        metrics = {"loss": loss, "value": value, "imitated": jnp.mean(better > 0)}
        return TrainState(state.step + 1, params, states), metrics

    return compile_step(update, precision)
