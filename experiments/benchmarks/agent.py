"""Suite `agent`: what a long context costs in training, what acting with one costs, and where the time of both goes.

By CPU time, on synthetic data of a task's shape where the values do not matter. About 20 minutes, most of them in ten training
steps on 128 trajectories of 1,000 steps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmarks import tables

if TYPE_CHECKING:
    import jax

    from agentic_transformer.config import ModelConfig
    from agentic_transformer.description import AgentDescription
    from agentic_transformer.policy import Policy
    from agentic_transformer.tokens import Tokens

DEVICES = 8
_STEPS = 10  # of training on the long context
_ENVIRONMENTS = 64
_CALLS = 20
_WAITED_STEPS = 200


def run(folder: Path) -> None:
    """Runs every part and writes `<part>.csv` into `folder`."""
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_cpu_collective_call_terminate_timeout_seconds=600"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    parts = (_acting, _evaluation, _training, _waiting, _context)
    for name, part in ((part.__name__.strip("_"), part) for part in parts):
        tables.write(folder / f"{name}.csv", part())


def _context() -> list[dict[str, Any]]:
    """A training step on 128 trajectories of 1,000 steps: memory a device, and seconds of ten steps on the ring."""
    from agentic_transformer.config import ModelConfig

    rows = []
    for tokens, backbone, devices in (
        ("packed", "ring", DEVICES),
        ("packed", "blockwise", 1),
        ("separate", "ring", DEVICES),
        ("separate", "blockwise", 1),
    ):
        model = ModelConfig(width=32, layers=1, attention=backbone, tokens=tokens, remat="block")
        step, state, batch = _train_step(_description(128, 1000, 24, 6, model), 1, devices)
        compiled = step.lower(state, batch).compile()
        row = {"tokens": tokens, "context": batch.weight.shape[1], "backbone": backbone, "devices": devices}
        row["temporary_megabytes"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
        if (tokens, backbone) == ("packed", "ring"):
            losses, start = [], time.perf_counter()
            for _ in range(_STEPS):
                state, metrics = compiled(state, batch)
                losses.append(float(metrics["loss"]))
                print(f"step {len(losses)} of {_STEPS}: loss {losses[-1]:.4f}", flush=True)
            row |= {"seconds_a_step": (time.perf_counter() - start) / _STEPS, "first_loss": losses[0], "last_loss": losses[-1]}
        rows.append(row)
    return rows


def _acting() -> list[dict[str, Any]]:
    """One environment step of 64 agents against caches of growing length, beside reading the cache and beside recomputing it."""
    return [_acting_with(trajectories) for trajectories in (1, 8, 32, 128)]


def _acting_with(trajectories: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from agentic_transformer.ring import attention

    policy = _policy(trajectories)
    description, context = policy.description, policy.new_context(_ENVIRONMENTS, trajectories)
    capacity = trajectories * description.steps
    context = replace(context, position=capacity - 1)
    observation, to_go = np.zeros((_ENVIRONMENTS, description.observation_size)), np.ones(_ENVIRONMENTS)

    def act() -> Any:
        nonlocal context
        _, after = policy.act(context, to_go, observation, description.steps - 1, jax.random.key(0), 1.0, 1.0)
        context = replace(after, position=capacity - 1)
        return context.cache

    model = description.build(0)
    features = jnp.zeros((_ENVIRONMENTS, capacity, description.layout().features))
    timestep = jnp.tile(jnp.arange(description.steps), (_ENVIRONMENTS, trajectories))
    whole = jax.jit(lambda features, timestep: model(features, timestep, lambda _, *qkv: attention(*qkv, backbone="blockwise")))
    read = jax.jit(lambda cache: jax.tree.map(jnp.sum, cache))
    seconds = {
        "act": _seconds(act),
        "read": _seconds(lambda: read(context.cache)),
        "recompute": _seconds(lambda: whole(features, timestep), calls=3),
    }
    return {
        "trajectories": trajectories,
        "tokens": capacity,
        "cache_megabytes": sum(array.nbytes for layer in context.cache for array in layer) / 1e6,
        **{f"{name}_ms": 1e3 * value for name, value in seconds.items()},
        "times_reading": seconds["act"] / seconds["read"],
        "times_recomputing": seconds["recompute"] / seconds["act"],
    }


def _training() -> list[dict[str, Any]]:
    """Training of the quickstart and of a walker model with 32 trajectories: FLOPs of the model over a matrix product's rate.

    Beside it the shares of a step's time that attention and the optimiser take when they run alone.
    """
    from agentic_transformer.config import ModelConfig

    quickstart = _description(8, 12, 4, 2, ModelConfig())
    walker = _description(32, 1000, 24, 6, ModelConfig(width=128, layers=3))
    return [_training_of("quickstart", quickstart, 32, _CALLS), _training_of("walker, 32 trajectories", walker, 1, 2)]


def _training_of(name: str, description: AgentDescription, batch: int, calls: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from agentic_transformer.config import TrainConfig
    from agentic_transformer.ring import attention
    from agentic_transformer.training import make_optimizer
    from experiments.benchmarks.ring_speed import product_rate

    step, state, tokens = _train_step(description, batch, 1)
    model, length = description.model, tokens.weight.shape[1]
    heads = jnp.ones((batch, length, model.heads, model.width // model.heads))
    attend = jax.jit(lambda x: jax.vjp(lambda *qkv: attention(*qkv, backbone="blockwise"), x, x, x)[1](x))
    optimizer, _ = make_optimizer(TrainConfig())
    update = jax.jit(lambda params, state: optimizer.update(params, state, params))
    params = jax.tree.map(jnp.copy, (state.params, state.optimizer))

    def train() -> Any:
        nonlocal state
        state, metrics = step(state, tokens)
        return metrics

    rate, seconds = product_rate(), _seconds(train, calls)
    return {
        "case": name,
        "tokens_a_step": batch * length,
        "seconds": seconds,
        "utilisation": _model_flops(description, batch, length) / seconds / rate,
        "share_of_attention": model.layers * _seconds(lambda: attend(heads), calls) / seconds,
        "share_of_optimiser": _seconds(lambda: update(*params), calls) / seconds,
    }


def _waiting() -> list[dict[str, Any]]:
    """The share of the quickstart's training time in which the step waits for its batch, on one device, by wall time."""
    import jax

    from agentic_transformer import mesh as meshes
    from agentic_transformer import training
    from agentic_transformer.config import AgentConfig, CollectCommand, ModelConfig, TrainConfig
    from agentic_transformer.labels import ChainLoader
    from experiments import collect
    from experiments.data import training_data

    command, agent, train = CollectCommand(), AgentConfig(), TrainConfig()
    collect.main(command)
    data = training_data(command.task, command.data)
    description = _description(agent.trajectories, int(data.store.lengths[0]), 4, 2, ModelConfig())
    description = replace(description, scaling=data.scaling(agent.reward_scale))
    loader = ChainLoader(data, agent, description.layout(), 0, train.batch)
    step, state, first = _train_step(description, train.batch, 1)
    mesh = first.weight.sharding.mesh
    state, metrics = step(state, first)
    batches = training.prefetch(lambda number: meshes.place(loader(number), mesh, "zigzag"), 0, _WAITED_STEPS)
    waited, start = 0.0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        tokens = next(batches, None)
        waited += time.perf_counter() - asked
        if tokens is None:
            break
        state, metrics = step(state, tokens)
        jax.block_until_ready(metrics)
    whole = time.perf_counter() - start
    return [{"case": "quickstart", "steps": _WAITED_STEPS, "seconds": whole, "share_of_waiting": waited / whole}]


def _evaluation() -> list[dict[str, Any]]:
    """Environment steps of an evaluation a second, against those of the environments alone."""
    import jax
    import numpy as np

    import envs
    from agentic_transformer.config import EvalConfig
    from agentic_transformer.evaluation import run_trajectory

    trajectories = 8
    policy = _policy(trajectories)
    steps = policy.description.steps
    env = envs.make_vec("point_mass_goal", _ENVIRONMENTS)
    target, config = np.ones(_ENVIRONMENTS), EvalConfig()

    def roll_out() -> None:
        context = policy.new_context(_ENVIRONMENTS, trajectories)
        for number in range(trajectories):
            _, _, context = run_trajectory(policy, env, context, target, number, jax.random.key(number), config)

    def step_alone() -> None:
        action = np.zeros(env.action_space.shape, np.float32)
        for number in range(trajectories):
            env.reset(seed=number)
            for _ in range(steps):
                env.step(action)

    whole, alone = _seconds(roll_out, calls=3), _seconds(step_alone, calls=3)
    taken = trajectories * steps * _ENVIRONMENTS
    return [
        {
            "task": "point_mass_goal",
            "environments": _ENVIRONMENTS,
            "trajectories": trajectories,
            "steps_a_second": taken / whole,
            "steps_a_second_without_agent": taken / alone,
            "share_of_model": 1 - alone / whole,
        }
    ]


def _description(trajectories: int, steps: int, observation: int, action: int, model: ModelConfig) -> AgentDescription:
    """An agent for a task of the given sizes."""
    from agentic_transformer.config import AgentConfig
    from agentic_transformer.description import AgentDescription
    from agentic_transformer.tokens import Scaling

    scaling = Scaling((0.0,) * observation, (1.0,) * observation, return_scale=1.0, reward_scale=1.0)
    agent = AgentConfig(trajectories=trajectories)
    return AgentDescription("point_mass_goal", 0, agent, model, scaling, observation, action, steps, best_return=1.0)


def _policy(trajectories: int) -> Policy:
    """An untrained agent of the quickstart's size."""
    from flax import nnx

    from agentic_transformer.config import ModelConfig
    from agentic_transformer.policy import Policy

    description = _description(trajectories, 12, 4, 2, ModelConfig())
    return Policy(*nnx.split(description.build(0), nnx.Param), description)


def _train_step(description: AgentDescription, rows: int, devices: int) -> tuple[Callable, Any, Tokens]:
    """The step of `experiments.train` on a ring of the first `devices`, a fresh state, and a batch of random tokens."""
    import jax
    import numpy as np
    from jax.sharding import AxisType

    from agentic_transformer import mesh as meshes
    from agentic_transformer import training
    from agentic_transformer.config import TrainConfig
    from agentic_transformer.tokens import Tokens

    axes = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((1, devices), (meshes.DATA, meshes.RING), axis_types=axes, devices=jax.devices()[:devices])
    layout, steps = description.layout(), description.agent.trajectories * description.steps
    shape = (rows, steps * layout.tokens_per_step)
    rng = np.random.default_rng(0)
    tokens = Tokens(
        features=rng.standard_normal((*shape, layout.features), np.float32),
        timestep=np.broadcast_to(np.arange(shape[1]) // layout.tokens_per_step % description.steps, shape).astype(np.int32),
        segment=np.zeros(shape, np.int32),
        action=rng.uniform(-1, 1, (*shape, description.action_size)).astype(np.float32),
        weight=np.broadcast_to(np.arange(shape[1]) % layout.tokens_per_step == layout.decision, shape).astype(np.float32),
    )
    optimizer, _ = training.make_optimizer(TrainConfig())
    graph, state = training.init_state(description.build(0), optimizer, mesh)
    step = training.make_train_step(graph, optimizer, description.model, mesh, shape[1])
    return step, state, meshes.place(tokens, mesh, description.model.layout)


def _model_flops(description: AgentDescription, rows: int, length: int) -> float:
    """FLOPs of the model's products in a training step: three times those of the forward pass, causal pairs only."""
    model = description.model
    outer = description.layout().features + model.components * (1 + 2 * description.action_size)
    products = 2 * model.width * (outer + model.layers * (4 + 2 * model.feedforward) * model.width)
    pairs = model.layers * 4 * model.width * (length + 1) / 2
    return 3.0 * rows * length * (products + pairs)


def _seconds(call: Callable[[], jax.Array | None], calls: int = _CALLS) -> float:
    """CPU seconds of a call, the least of several, the first left out: it may compile."""
    import jax

    jax.block_until_ready(call())
    spent = []
    for _ in range(calls):
        start = time.process_time()
        jax.block_until_ready(call())
        spent.append(time.process_time() - start)
    return min(spent)
