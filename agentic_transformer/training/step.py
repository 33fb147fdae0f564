"""Defines the train state, its optimizer and one sharded training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentic_transformer.config import ModelConfig, TrainConfig
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.models.heads import action_loss
from agentic_transformer.models.transformer import AgenticTransformer
from agentic_transformer.ring import attention, blockwise_feedforward, to_layout
from agentic_transformer.training import sharding


class TrainState(NamedTuple):
    """All that training changes. The sampler's position is the step."""

    step: jax.Array
    params: nnx.State
    optimizer: optax.OptState


TrainStep = Callable[[TrainState, Tokens], tuple[TrainState, dict[str, jax.Array]]]
Weights = Callable[
    [Tokens], dict[str, jax.Array]
]  # of tokens in each of the losses that a step reports, by its name


def make_optimizer(config: TrainConfig) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with clipped gradients, linear warm-up and cosine decay, and its learning rate by step."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup, config.steps),
        decay_steps=max(config.steps, config.warmup + 1),
        end_value=config.learning_rate * config.final_fraction,
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )
    return optimizer, schedule


def init_state(
    build: Callable[[], AgenticTransformer],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    fsdp: bool = False,
) -> tuple[nnx.GraphDef, TrainState]:
    """The structure of a model and a fresh train state on the mesh, see `mesh.state_sharding`.

    One program draws it all, on every device what is to lie there: a sharded state is never whole
    anywhere.
    """

    def fresh() -> TrainState:
        params = nnx.split(build(), nnx.Param)[1]
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    graph, outline = abstract_state(build, optimizer, mesh, fsdp)
    return graph, jax.jit(fresh, out_shardings=jax.tree.map(lambda x: x.sharding, outline))()


def abstract_state(
    build: Callable[[], AgenticTransformer],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    fsdp: bool = False,
) -> tuple[nnx.GraphDef, TrainState]:
    """What `init_state` makes, in shapes and shardings alone, for a checkpoint to fill: nothing is
    computed.
    """
    graph, params = nnx.split(nnx.eval_shape(build), nnx.Param)
    state = jax.eval_shape(
        lambda params: TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)), params
    )

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding.state_sharding(x.shape, mesh, fsdp)
        )

    return graph, jax.tree.map(placed, state)


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: ModelConfig,
    mesh: Mesh,
    length: int,
    accumulate: int = 1,
    fsdp: bool = False,
    trajectories: int = 1,
) -> TrainStep:
    """One step of training, compiled over the mesh: the same program for one CPU and for a pod.

    Args:
        graph: structure of the model.
        optimizer: of `make_optimizer`.
        config: of the model; `attention` picks the backbone, all of which are exact.
        mesh: of `agentic_transformer.training.sharding.make_mesh`.
        length: tokens of a row before padding.
        accumulate: parts into which the rows are cut, whose gradients are added before the update:
            less memory, the same loss.
        fsdp: how the state is sharded, see `init_state`.
        trajectories: of a row. Of several, `first_step_loss_<n>` is the loss of first steps of
            those that stand n-th in their row (of powers of two, and of the last; 0 where none of
            them is learned).

    Returns:
        A function of (state, placed tokens) -> (state, metrics); the state handed in is consumed.
    """
    weights = _loss_weights(length, trajectories, mesh, config.layout)
    gradient_of = jax.value_and_grad(
        _loss(graph, config, mesh, length, fsdp, weights), has_aux=True
    )
    if accumulate > 1:
        gradient_of = _accumulated(gradient_of, accumulate, mesh)

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, tokens: Tokens) -> tuple[TrainState, dict[str, jax.Array]]:
        totals = {
            name: jnp.maximum(jnp.sum(weight), 1.0) for name, weight in weights(tokens).items()
        }
        (_, means), gradients = gradient_of(state.params, tokens, totals)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = means | {"gradient_norm": optax.tree.norm(gradients)}
        after = TrainState(state.step + 1, params, optimizer_state)
        if fsdp:
            after = jax.tree.map(
                lambda x: jax.lax.with_sharding_constraint(
                    x, sharding.state_sharding(x.shape, mesh, fsdp)
                ),
                after,
            )
        return after, metrics

    return step


def _loss(
    graph: nnx.GraphDef, config: ModelConfig, mesh: Mesh, length: int, fsdp: bool, weights: Weights
) -> Callable[[nnx.State, Tokens, dict[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]:
    """The loss of (params, tokens, totals), and all that are reported, by name.

    Each is a weighted sum over tokens divided by its total, which is of the whole batch where the
    tokens are a part of it.
    """

    def loss(
        params: nnx.State, tokens: Tokens, totals: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        def attend(_: Any, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            # Tied to the queries: else what sees what would be computed ahead of a loop over
            # layers, for all of the sequence.
            query, segment = jax.lax.optimization_barrier((query, tokens.segment))
            return attention(
                query,
                key,
                value,
                backbone=config.attention,
                mesh=mesh,
                axis=sharding.RING,
                batch_axis=sharding.DATA,
                layout=config.layout,
                segment_ids=segment,
                length=length,
            )

        options: dict[str, Callable] = {}
        if fsdp:
            options["weights"] = partial(
                sharding.all_gather_params, mesh=mesh, dtype=jnp.dtype(config.dtype)
            )
            whole = partial(sharding.all_gather_params, mesh=mesh, dtype=jnp.float32)
            params = nnx.State(
                {name: part if name == "blocks" else whole(part) for name, part in params.items()}
            )
        if config.blockwise_feedforward:
            options["feedforward"] = partial(
                blockwise_feedforward, mesh=mesh, axis=sharding.RING, batch_axis=sharding.DATA
            )
        outputs = nnx.merge(graph, params)(tokens.features, tokens.timestep, attend, **options)
        losses = action_loss(config, outputs, tokens.action)
        means = {
            name: jnp.sum(losses * weight) / totals[name]
            for name, weight in weights(tokens).items()
        }
        return means["loss"], means

    return loss


def _accumulated(gradient_of: Callable, parts: int, mesh: Mesh) -> Callable:
    """As `gradient_of(params, tokens, totals)`, of one part of the rows after the other, in the
    memory of one.
    """

    def cut(
        x: jax.Array,
    ) -> jax.Array:  # (B, S, ...) -> (parts, B / parts, S, ...); every device keeps rows of its own
        rows = jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1)
        return jax.lax.with_sharding_constraint(
            rows, NamedSharding(mesh, PartitionSpec(None, sharding.DATA, sharding.RING))
        )

    def accumulated(params: nnx.State, tokens: Tokens, totals: dict[str, jax.Array]) -> Any:
        def add(sums: Any, part: Tokens) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, gradient_of(params, part, totals)), None

        zeros = (
            (jnp.zeros(()), jax.tree.map(jnp.zeros_like, totals)),
            jax.tree.map(jnp.zeros_like, params),
        )
        return jax.lax.scan(add, zeros, jax.tree.map(cut, tokens))[0]

    return accumulated


def _loss_weights(length: int, trajectories: int, mesh: Mesh, layout: str) -> Weights:
    """Those of `make_train_step`."""
    nth = (
        np.arange(length) // (length // trajectories) + 1
    )  # of each token: which trajectory of its row it belongs to
    nth = to_layout(nth, mesh.shape[sharding.RING], layout, axis=0)
    shown = (
        [n for n in range(1, trajectories + 1) if n & (n - 1) == 0 or n == trajectories]
        if trajectories > 1
        else []
    )

    def weights(tokens: Tokens) -> dict[str, jax.Array]:
        # The first step of a trajectory has only the context to go by: its loss shows learning from
        # context early.
        first = tokens.weight * (tokens.timestep == 0)
        return {"loss": tokens.weight, "first_step_loss": first} | {
            f"first_step_loss_{n}": first * (nth == n) for n in shown
        }

    return weights
