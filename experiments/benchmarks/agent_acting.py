"""Measures acting with a long context, and evaluation end to end, by CPU time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs
from agentic_transformer.agents.attempts import run_trajectory
from agentic_transformer.config import EvalConfig
from agentic_transformer.ring import attention
from experiments.benchmarks import agent_models as models
from experiments.benchmarks.cpu_timing import least_cpu_seconds

ENVIRONMENTS = 64


def acting() -> list[dict[str, Any]]:
    """Measures one environment step of 64 agents whose caches have growing lengths.

    Beside it stand the time to read the cache and the time to recompute the context.
    """
    return [_acting_with(trajectories) for trajectories in (1, 8, 32, 128)]


def _acting_with(trajectories: int) -> dict[str, Any]:
    policy = models.policy(models.quickstart(trajectories))
    spec, context = policy.spec, policy.new_context(ENVIRONMENTS, trajectories)
    capacity = models.context_tokens(spec)
    context = replace(context, position=capacity - 1)
    observation = np.zeros((ENVIRONMENTS, spec.observation_size))
    to_go = np.ones(ENVIRONMENTS)

    def act() -> Any:
        nonlocal context
        _, after = policy.act(
            context, to_go, observation, spec.steps - 1, jax.random.key(0), 1.0, 1.0
        )
        context = replace(after, position=capacity - 1)
        return context.cache

    model = spec.build(0)
    features = jnp.zeros((ENVIRONMENTS, capacity, spec.layout().feature_size))
    timestep = jnp.tile(jnp.arange(spec.steps), (ENVIRONMENTS, trajectories))
    whole = jax.jit(
        lambda features, timestep: model(
            features, timestep, lambda _, *qkv: attention(*qkv, backbone="blockwise")
        )
    )
    read = jax.jit(lambda cache: jax.tree.map(jnp.sum, cache))
    seconds = {
        "act": least_cpu_seconds(act),
        "read": least_cpu_seconds(lambda: read(context.cache)),
        "recompute": least_cpu_seconds(lambda: whole(features, timestep), calls=3),
    }
    return {
        "trajectories": trajectories,
        "tokens": capacity,
        "cache_megabytes": sum(array.nbytes for layer in context.cache for array in layer) / 1e6,
        **{f"{name}_ms": 1e3 * value for name, value in seconds.items()},
        "times_reading": seconds["act"] / seconds["read"],
        "times_recomputing": seconds["recompute"] / seconds["act"],
    }


def evaluation() -> list[dict[str, Any]]:
    """Measures the environment steps a second of an evaluation and of the environments alone."""
    trajectories = 8
    policy = models.policy(models.quickstart(trajectories))
    steps = policy.spec.steps
    env = envs.make_vec("point_mass_goal", ENVIRONMENTS)
    target, config = np.ones(ENVIRONMENTS), EvalConfig()

    def roll_out() -> None:
        context = policy.new_context(ENVIRONMENTS, trajectories)
        for number in range(trajectories):
            _, _, context = run_trajectory(
                policy, env, context, target, number, jax.random.key(number), config
            )

    def step_alone() -> None:
        action = np.zeros(env.action_space.shape, np.float32)
        for number in range(trajectories):
            env.reset(seed=number)
            for _ in range(steps):
                env.step(action)

    whole, alone = least_cpu_seconds(roll_out, calls=3), least_cpu_seconds(step_alone, calls=3)
    taken = trajectories * steps * ENVIRONMENTS
    return [
        {
            "task": "point_mass_goal",
            "environments": ENVIRONMENTS,
            "trajectories": trajectories,
            "steps_a_second": taken / whole,
            "steps_a_second_without_agent": taken / alone,
            "share_of_model": 1 - alone / whole,
        }
    ]
