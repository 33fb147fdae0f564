"""Defines the loss of a batch and one sharded training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentic_transformer.config import ModelConfig
from agentic_transformer.contexts.token_layouts import TOKEN_LAYOUTS
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.models.heads import action_loss
from agentic_transformer.models.precision import matmul_precision
from agentic_transformer.models.spec import AgentSpec
from agentic_transformer.models.transformer import Attention
from agentic_transformer.models.value_head import advantage_weight, expectile_loss
from agentic_transformer.ring import (
    attention,
    blockwise_feedforward,
    compiler_options,
    to_layout,
)
from agentic_transformer.training.fsdp import all_gather_params, state_sharding
from agentic_transformer.training.sharding import DATA, RING
from agentic_transformer.training.state import TrainState

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
"""Maps (state, batch) to (state, metrics)."""
WEIGHT = " weight"
"""Ends the name of a metric that says how much another one counts in its mean over steps: the loss
of a step without a learned action is a mean of nothing, and its weight is 0."""
LossWeights = Callable[[Tokens], dict[str, jax.Array]]
"""Maps tokens to their weights (B, S) in every reported loss, by the loss's name."""
LossFn = Callable[[nnx.State, Tokens, Metrics], tuple[jax.Array, Metrics]]
"""Maps (params, tokens, totals) to the loss and all reported losses, see `make_loss_fn`."""


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    spec: AgentSpec,
    mesh: Mesh,
    sequence_length: int,
    grad_accum_steps: int = 1,
    fsdp: bool = False,
) -> TrainStep:
    """Returns one step of training, compiled over the mesh: one program for a CPU and for a pod.

    Args:
        graph: structure of the model.
        optimizer: see `agentic_transformer.training.state.make_optimizer`.
        spec: the agent; its `model.attention` names the attention algorithm; all give the same
            result.
        mesh: devices, see `agentic_transformer.training.sharding.make_mesh`.
        sequence_length: tokens of a row before padding.
        grad_accum_steps: micro-batches of a step. More of them take less memory and give the same
            loss.
        fsdp: whether the state is sharded, see `agentic_transformer.training.fsdp`.

    Returns:
        A function of (state, sharded tokens) -> (state, metrics). It consumes the state. The
        metrics hold every loss of `make_loss_weights` and, under its name and `WEIGHT`, the total
        weight of its tokens in the batch.
    """
    weights_of = make_loss_weights(spec, mesh, sequence_length)
    loss_fn = make_loss_fn(graph, spec, mesh, sequence_length, weights_of, fsdp)
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    if grad_accum_steps > 1:
        grad_fn = accumulate_grads(grad_fn, grad_accum_steps, mesh)

    options = compiler_options(mesh.devices.flat[0].platform)

    @partial(jax.jit, donate_argnums=0, compiler_options=options)
    def train_step(state: TrainState, tokens: Tokens) -> tuple[TrainState, Metrics]:
        # The totals are those of the whole batch, also where gradients come from parts of it.
        weights = {name: jnp.sum(weight) for name, weight in weights_of(tokens).items()}
        totals = {name: jnp.maximum(weight, 1.0) for name, weight in weights.items()}
        (_, losses), grads = grad_fn(state.params, tokens, totals)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(state.step + 1, params, optimizer_state)
        if fsdp:  # Without it XLA might leave parts of the new state whole on every device.
            new_state = jax.tree.map(partial(_constrain_state, mesh), new_state)
        norm = optax.tree.norm(grads)  # norm before clipping, which the optimizer does
        counts = {f"{name}{WEIGHT}": weight for name, weight in weights.items()}
        return new_state, losses | counts | {"gradient_norm": norm}

    return train_step


def _learns_value(spec: AgentSpec) -> bool:
    return spec.agent.weighting == "advantage"


def _constrain_state(mesh: Mesh, x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, state_sharding(x.shape, mesh, fsdp=True))


def make_loss_fn(
    graph: nnx.GraphDef,
    spec: AgentSpec,
    mesh: Mesh,
    sequence_length: int,
    weights_of: LossWeights,
    fsdp: bool = False,
) -> LossFn:
    """Returns the loss as a function of (params, tokens, totals).

    With l_t the loss of the action at token t, and w_t the weight of the token in one of the
    losses, the loss of that name is

        L = sum_t w_t l_t / total

    `totals` holds the total weight of each name over the whole batch, or 1 where that is 0. The
    tokens may be a part of the batch: the losses of all parts then add up to the loss of the batch.

    With `agent.weighting=advantage`, the loss "loss" is instead that of imitation weighted by
    advantage, with the return G_t of the rest of the trajectory and the value V_t of the token,

        L = sum_t w_t omega(G_t - V_t) l_t / total + value_weight * L_value

    omega is `advantage_weight`. L_value, the loss "value_loss", is the mean of `expectile_loss`
    over all actions, imitated or not.

    Args:
        graph: structure of the model.
        spec: the agent.
        mesh: devices.
        sequence_length: tokens of a row before padding.
        weights_of: returns the weights of tokens, see `make_loss_weights`. The loss named "loss"
            is the one to minimise.
        fsdp: whether the parameters are sharded.
    """
    config, agent, learns_value = spec.model, spec.agent, _learns_value(spec)
    options: dict[str, Callable] = {}
    if fsdp:
        dtype = jnp.dtype(config.dtype)
        options["gather_params"] = partial(all_gather_params, mesh=mesh, dtype=dtype)
    if config.blockwise_feedforward:
        options["feedforward"] = partial(
            blockwise_feedforward, mesh=mesh, axis=RING, batch_axis=DATA
        )

    def loss_fn(params: nnx.State, tokens: Tokens, totals: Metrics) -> tuple[jax.Array, Metrics]:
        if fsdp:
            # The model gathers each block where it is used. Other parameters are few: they are
            # gathered here.
            params = nnx.State(
                {
                    name: part
                    if name == "blocks"
                    else all_gather_params(part, mesh=mesh, dtype=jnp.float32)
                    for name, part in params.items()
                }
            )
        # In rows of one chain alone attention needs no segments, and fused kernels can compute it.
        segment = None if agent.chain_length == "full" else tokens.segment
        attend = _make_attention(config, mesh, sequence_length, segment)
        model = nnx.merge(graph, params)
        with matmul_precision(config.precision):
            # (B, S, width)
            encoded = model.encode(tokens.features, tokens.timestep, attend, **options)
            outputs = model.head(encoded)  # (B, S, head_size)
            value = model.value_head(encoded)[..., 0] if learns_value else None  # (B, S)
        action_losses = action_loss(config, outputs, tokens.action)  # (B, S)
        weights = weights_of(tokens)
        token_losses = dict.fromkeys(weights, action_losses)
        if learns_value:
            advantage = tokens.rest_return - value
            omega = advantage_weight(advantage, agent.advantage_temperature)
            token_losses["loss"] = omega * action_losses
            token_losses["value_loss"] = expectile_loss(advantage, agent.expectile)
        losses = {
            name: jnp.sum(token_losses[name] * weight) / totals[name]
            for name, weight in weights.items()
        }
        if learns_value:
            losses["loss"] += agent.value_weight * losses["value_loss"]
        return losses["loss"], losses

    return loss_fn


def _make_attention(
    config: ModelConfig, mesh: Mesh, sequence_length: int, segment: jax.Array | None
) -> Attention:
    """Returns causal attention within segments (B, S), or whole rows, by the settings."""

    def attend(_layer: Any, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        # Without the barrier XLA hoists every mask out of the scan over layers: O(S^2) memory.
        query, segment_ids = jax.lax.optimization_barrier((query, segment))
        return attention(
            query,
            key,
            value,
            backbone=config.attention,
            mesh=mesh,
            axis=RING,
            batch_axis=DATA,
            layout=config.layout,
            segment_ids=segment_ids,
            length=sequence_length,
            kernel=config.kernel,
        )

    return attend


def accumulate_grads(grad_fn: Callable, steps: int, mesh: Mesh) -> Callable:
    """Returns a function that sums gradients over micro-batches, with one in memory at a time.

    Args:
        grad_fn: `jax.value_and_grad` of a loss function of `make_loss_fn`.
        steps: number of micro-batches.
        mesh: devices; each keeps rows of its own in every micro-batch.

    Returns:
        A function with the arguments and results of `grad_fn`, for the whole batch.
    """
    by_rows = NamedSharding(mesh, PartitionSpec(None, DATA, RING))

    def split(x: jax.Array) -> jax.Array:  # (B, S, ...) -> (steps, B / steps, S, ...)
        micro_batches = jnp.swapaxes(x.reshape(-1, steps, *x.shape[1:]), 0, 1)
        return jax.lax.with_sharding_constraint(micro_batches, by_rows)

    def accumulated(params: nnx.State, tokens: Tokens, totals: Metrics) -> Any:
        def add(sums: Any, micro_batch: Tokens) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, grad_fn(params, micro_batch, totals)), None

        # A scan keeps the activations of one micro-batch at a time.
        losses = jnp.zeros(()), jax.tree.map(jnp.zeros_like, totals)
        zeros = losses, jax.tree.map(jnp.zeros_like, params)
        return jax.lax.scan(add, zeros, jax.tree.map(split, tokens))[0]

    return accumulated


def make_loss_weights(spec: AgentSpec, mesh: Mesh, sequence_length: int) -> LossWeights:
    """Returns a function that maps tokens to their weights in every reported loss.

    `loss` weights all learned actions. `first_step_loss` weights those at step 0 of a trajectory.
    Where a row holds several trajectories, `first_step_loss_<n>` is the loss at step 0 of the n-th
    trajectory of each row, for powers of two and the last n. Where a value is learned, `value_loss`
    weights every action, learned or not, and `action_loss` the learned ones, as `loss` does without
    a value.

    Args:
        spec: the agent.
        mesh: devices; its ring decides the order of tokens.
        sequence_length: tokens of a row before padding.
    """
    trajectories, layout = spec.agent.trajectories, spec.model.layout
    # 1-based trajectory of each token; 0 is padding. (S,)
    number = np.arange(sequence_length) // (sequence_length // trajectories) + 1
    number = to_layout(number, mesh.shape[RING], layout, axis=0)
    reported = [n for n in range(1, trajectories + 1) if n & (n - 1) == 0 or n == trajectories]
    if trajectories == 1:
        reported = []
    learns_value = _learns_value(spec)
    if learns_value:
        kind = TOKEN_LAYOUTS[spec.model.tokens]
        # 1 at tokens that predict an action, 0 at others and at padding. (S,)
        acts = np.arange(sequence_length) % kind.tokens_per_step == kind.action_token
        acts = to_layout(acts.astype(np.float32), mesh.shape[RING], layout, axis=0)

    def weights_of(tokens: Tokens) -> dict[str, jax.Array]:
        # At its first step a trajectory has only the context to act on. That loss shows early
        # whether the agent learns from its context.
        first = tokens.weight * (tokens.timestep == 0)
        by_place = {f"first_step_loss_{n}": first * (number == n) for n in reported}
        weights = {"loss": tokens.weight, "first_step_loss": first} | by_place
        if learns_value:
            weights["action_loss"] = tokens.weight
            weights["value_loss"] = jnp.broadcast_to(acts, tokens.weight.shape)
        return weights

    return weights_of
