"""Train state, one step, the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from agentic_transformer import mesh as meshes
from agentic_transformer.config import ModelConfig, TrainConfig
from agentic_transformer.heads import action_loss
from agentic_transformer.model import AgenticTransformer
from agentic_transformer.ring import attention
from agentic_transformer.tokens import Tokens


class TrainState(NamedTuple):
    """All that training changes. The sampler's position is the step."""

    step: jax.Array
    params: nnx.State
    optimizer: optax.OptState


TrainStep = Callable[[TrainState, Tokens], tuple[TrainState, dict[str, jax.Array]]]


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
        optax.clip_by_global_norm(config.clip),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )
    return optimizer, schedule


def init_state(model: AgenticTransformer, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[nnx.GraphDef, TrainState]:
    """Splits the model into its structure and a fresh train state, replicated over the mesh."""
    graph, params = nnx.split(model, nnx.Param)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    return graph, jax.device_put(state, meshes.replicated(mesh))


def make_train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: ModelConfig,
    mesh: Mesh,
    length: int,
) -> TrainStep:
    """One step of training, compiled over the mesh: the same program for one CPU and for a pod.

    Args:
        graph: structure of the model.
        optimizer: of `make_optimizer`.
        config: of the model; `attention` picks the backbone, all of which are exact.
        mesh: of `agentic_transformer.mesh.make_mesh`.
        length: tokens of a row before padding.

    Returns:
        A function of (state, placed tokens) -> (state, metrics); the state handed in is consumed.
    """

    def weighted_mean(values: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1.0)

    def loss_of(params: nnx.State, tokens: Tokens) -> tuple[jax.Array, jax.Array]:
        attend = partial(
            attention,
            backbone=config.attention,
            mesh=mesh,
            axis=meshes.RING,
            batch_axis=meshes.DATA,
            layout=config.layout,
            segment_ids=tokens.segment,
            length=length,
        )
        outputs = nnx.merge(graph, params)(
            tokens.features, tokens.timestep, lambda _, query, key, value: attend(query, key, value)
        )
        losses = action_loss(config, outputs, tokens.action)
        # The first step of a trajectory has only the context to go by: its loss shows learning from context early.
        first = weighted_mean(losses, tokens.weight * (tokens.timestep == 0))
        return weighted_mean(losses, tokens.weight), first

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, tokens: Tokens) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, first), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params, tokens)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "first_step_loss": first, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, params, optimizer_state), metrics

    return step


def prefetch(make: Callable[[int], Tokens], start: int, stop: int) -> Iterator[Tokens]:
    """`make(start)`, ..., `make(stop - 1)`, each made in a thread while the step before it computes."""
    with ThreadPoolExecutor(max_workers=1) as worker:
        pending = worker.submit(make, start)
        for step in range(start + 1, stop + 1):
            tokens = pending.result()
            if step < stop:
                pending = worker.submit(make, step)
            yield tokens


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterable[Tokens],
    config: TrainConfig,
    log: Callable[[int, dict[str, float]], None],
    save: Callable[[TrainState], None],
) -> TrainState:
    """Trains on batches, one step each, the last of which is step `config.steps`.

    Args:
        state: where to start.
        train_step: of `make_train_step`.
        batches: placed token rows of the steps after the state's.
        config: numbers of steps.
        log: receives the step and the mean of its metrics since the last call, every `log_every` steps and at the end.
        save: receives the state every `checkpoint_every` steps and at the end.

    Returns:
        The trained state.

    Raises:
        FloatingPointError: the loss is not finite; nothing is saved from then on.
    """
    recent: list[dict[str, jax.Array]] = []
    for step, tokens in enumerate(batches, int(state.step) + 1):
        state, metrics = train_step(state, tokens)
        recent.append(metrics)
        last = step == config.steps
        if last or step % config.log_every == 0 or step % config.checkpoint_every == 0:
            means = {name: sum(float(m[name]) for m in recent) / len(recent) for name in metrics}
            if not all(value - value == 0 for value in means.values()):
                raise FloatingPointError(f"the loss became {means['loss']} between steps {step - len(recent) + 1} and {step}")
            log(step, means)
            recent = []
        if last or step % config.checkpoint_every == 0:
            save(state)
    return state
