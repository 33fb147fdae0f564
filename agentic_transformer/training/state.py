"""Defines the train state and its optimizer, and creates both on the mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer.config import TrainConfig
from agentic_transformer.models.transformer import AgenticTransformer
from agentic_transformer.training.fsdp import state_sharding


class TrainState(NamedTuple):
    """Holds all that training changes.

    The sampler keeps no state: its position is `step`.
    """

    step: jax.Array
    """() int32, steps made so far."""
    params: nnx.State
    """Parameters, float32."""
    optimizer: optax.OptState
    """Moments and counters of the optimizer."""


def make_optimizer(config: TrainConfig) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns AdamW with clipped gradients, and its learning rate as a function of the step.

    The learning rate rises linearly over `warmup` steps and then falls by a cosine to
    `final_fraction` of its peak.
    """
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
    """Returns the structure of a model and a fresh train state on the mesh.

    One compiled program creates each part on the device that will hold it, so that a sharded state
    is never whole anywhere.

    Args:
        build: creates the model.
        optimizer: its state starts at zero.
        mesh: devices, see `agentic_transformer.training.sharding.make_mesh`.
        fsdp: whether the state is sharded, see `agentic_transformer.training.fsdp`.
    """

    def create() -> TrainState:
        params = nnx.split(build(), nnx.Param)[1]
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    graph, abstract = abstract_state(build, optimizer, mesh, fsdp)
    return graph, jax.jit(create, out_shardings=jax.tree.map(lambda x: x.sharding, abstract))()


def abstract_state(
    build: Callable[[], AgenticTransformer],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    fsdp: bool = False,
) -> tuple[nnx.GraphDef, TrainState]:
    """Returns what `init_state` returns, but shapes and shardings in place of arrays.

    Nothing is computed. Serves as the template when a checkpoint is read.
    """
    graph, params = nnx.split(nnx.eval_shape(build), nnx.Param)
    state = jax.eval_shape(
        lambda params: TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)), params
    )

    def with_sharding(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = state_sharding(x.shape, mesh, fsdp)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return graph, jax.tree.map(with_sharding, state)
