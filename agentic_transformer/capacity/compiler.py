"""Compiles the train step for a topology that is not there.

The result is the compiler's own account of memory, or a refusal. Nothing runs. That a program is
accepted does not prove that a device would run it to the end.
"""

from __future__ import annotations

from types import ModuleType

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from agentic_transformer.capacity.compilers import gpu, tpu
from agentic_transformer.capacity.hardware import topology
from agentic_transformer.capacity.hlo_permutes import (
    count_conditionals,
    count_fused_calls,
    read_permutes,
)
from agentic_transformer.capacity.outcome import Accepted, Refused, memory_of
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import TrainConfig
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.training import sharding
from agentic_transformer.training.state import TrainState, abstract_state, make_optimizer
from agentic_transformer.training.step import TrainStep, make_train_step

COMPILERS: dict[str, ModuleType] = {"tpu": tpu, "gpu": gpu}


def available(platform: str = "tpu") -> bool:
    """Returns whether the compiler of a platform is installed.

    Args:
        platform: "tpu" or "gpu".
    """
    return not COMPILERS[platform].missing()


def compile_step(workload: Workload, *, fast: bool) -> Accepted | Refused:
    """Compiles the train step of `make_train_step` for a workload's topology.

    Args:
        workload: what to train.
        fast: whether the compiler should spend little time on the speed of the program, see
            `compilers`.

    Raises:
        ValueError: the compiler is not installed.
    """
    where = workload.topology
    step, state, tokens = abstract_step(workload, describe_devices(where.name))
    lowered = step.lower(state, tokens)
    compiled = COMPILERS[where.platform].compile_lowered(lowered, where, fast=fast)
    if isinstance(compiled, Refused):
        return compiled
    program = compiled.as_text()
    permutes = () if fast and where.platform == "tpu" else tuple(read_permutes(program))
    return Accepted(
        memory_of(compiled), permutes, count_fused_calls(program), count_conditionals(program)
    )


def describe_devices(name: str) -> list[jax.Device]:
    """Returns the devices of a topology, as the compiler describes them.

    Raises:
        ValueError: the compiler is not installed.
    """
    where = topology(name)
    if not available(where.platform):
        raise ValueError(
            COMPILERS[where.platform].missing() + "; compile=nothing estimates without it"
        )
    return COMPILERS[where.platform].describe(where)


def abstract_step(
    workload: Workload, devices: list[jax.Device]
) -> tuple[TrainStep, TrainState, Tokens]:
    """Returns the train step with abstract arguments, from which it is lowered without data.

    Args:
        workload: what to train.
        devices: the devices of the mesh.

    Returns:
        The step, and the shapes, types and shardings of its state and its tokens.
    """
    mesh = sharding.make_mesh(workload.ring, devices)
    optimizer, _ = make_optimizer(TrainConfig())
    spec = workload.spec
    graph, state = abstract_state(lambda: spec.build(0), optimizer, mesh, fsdp=True)
    on_mesh = NamedSharding(mesh, PartitionSpec(sharding.DATA, sharding.RING))

    def abstract(*entries: int, dtype: jnp.dtype = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (workload.sequences, workload.context, *entries), dtype, sharding=on_mesh
        )

    tokens = Tokens(
        features=abstract(spec.layout().feature_size),
        timestep=abstract(dtype=jnp.int32),
        segment=abstract(dtype=jnp.int32),
        action=abstract(spec.action_size),
        weight=abstract(),
    )
    step = make_train_step(graph, optimizer, spec, mesh, workload.context, fsdp=True)
    return step, state, tokens
