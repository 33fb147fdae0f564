"""Compiles the train step for a TPU topology that is not there.

The result is the compiler's own account of memory, or its refusal. Nothing runs. That the compiler
accepts a program does not prove that a chip would run it to the end.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from agentic_transformer.capacity.hlo_permutes import Permute, read_permutes
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import TrainConfig
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.training import sharding
from agentic_transformer.training.state import TrainState, abstract_state, make_optimizer
from agentic_transformer.training.step import TrainStep, make_train_step

NEEDED = (
    "compiling for TPUs needs their compiler, but no TPU: make install EXTRAS=tpu; "
    "compile=nothing estimates without it"
)
"""Message if the TPU compiler is not installed."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSED = re.compile(
    r"Ran out of memory (?:on|in memory space) hbm\b(.*)", re.IGNORECASE | re.DOTALL
)
_AMOUNT = re.compile(r"\b([\d.]+)([KMGT]?)\b")


class Memory(NamedTuple):
    """Holds the bytes on each device of a program that the compiler accepts.

    Attributes:
        peak: the most that is held at one time, as the compiler plans it.
        arguments: size of the inputs, which are the state and the tokens.
        outputs: size of the outputs.
        shared: size counted in both arguments and outputs, because the state is updated in place.
        temporary: size of all other space; parts of it may never be used at the same time.
    """

    peak: int
    arguments: int
    outputs: int
    shared: int
    temporary: int

    @property
    def conservative(self) -> int:
        """Returns the sum of all sizes, an upper bound."""
        return self.arguments + self.outputs - self.shared + self.temporary


class Refused(NamedTuple):
    """Describes the refusal of a program that does not fit.

    Attributes:
        required: bytes on each device that it would need.
        available: bytes that it may use.
    """

    required: int
    available: int


class Accepted(NamedTuple):
    """Describes a program that the compiler accepts.

    Attributes:
        memory: the memory that the program takes.
        permutes: its permutes as they are scheduled. A fast compilation has none, because its
            schedule is not the one that would run.
    """

    memory: Memory
    permutes: tuple[Permute, ...]


def available() -> bool:
    """Returns whether the TPU compiler is installed."""
    return importlib.util.find_spec("libtpu") is not None


def compile_step(workload: Workload, *, fast: bool) -> Accepted | Refused:
    """Compiles the train step of `make_train_step` for a workload's topology.

    Args:
        workload: a workload on a TPU topology.
        fast: whether the compiler should spend little time on the speed of the program. Its memory
            hardly changes, but its schedule is not the one that would run.

    Raises:
        ValueError: the compiler is not installed.
    """
    step, state, tokens = abstract_step(workload, describe_devices(workload.topology.name))
    lowered = step.lower(state, tokens)
    try:
        compiled = lowered.compile({"exec_time_optimization_effort": -1.0} if fast else None)
    except jax.errors.JaxRuntimeError as error:
        refused = parse_refusal(str(error))
        if refused is None:
            raise
        return refused
    found = compiled.memory_analysis()
    memory = Memory(
        found.peak_memory_in_bytes,
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )
    return Accepted(memory, () if fast else tuple(read_permutes(compiled.as_text())))


def describe_devices(name: str) -> list[jax.Device]:
    """Returns the devices of a TPU topology, as the compiler describes them.

    Raises:
        ValueError: the compiler is not installed.
    """
    if not available():
        raise ValueError(NEEDED)
    # Without these variables libtpu asks the machine that it is on, which is no TPU, and waits.
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    os.environ |= quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    return topologies.get_topology_desc(name, "tpu").devices


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
    description = workload.description
    graph, state = abstract_state(lambda: description.build(0), optimizer, mesh, fsdp=True)
    on_mesh = NamedSharding(mesh, PartitionSpec(sharding.DATA, sharding.RING))

    def abstract(*entries: int, dtype: jnp.dtype = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (workload.sequences, workload.context, *entries), dtype, sharding=on_mesh
        )

    tokens = Tokens(
        features=abstract(description.layout().feature_size),
        timestep=abstract(dtype=jnp.int32),
        segment=abstract(dtype=jnp.int32),
        action=abstract(description.action_size),
        weight=abstract(),
    )
    step = make_train_step(graph, optimizer, workload.model, mesh, workload.context, fsdp=True)
    return step, state, tokens


def parse_refusal(message: str) -> Refused | None:
    """Reads the sizes in a compiler's error about a device's memory.

    The messages are "RESOURCE_EXHAUSTED: ... Ran out of memory on HBM, the total memory required
    for HLO temporaries (97.06G) exceeds available HBM (95.74G).", or "RESOURCE_EXHAUSTED: ... Ran
    out of memory in memory space hbm. Used 20.1G of 15.75G hbm."

    Returns:
        The sizes, or None if the error is about something else, such as a core's VMEM.
    """
    found = _REFUSED.search(message)
    amounts = [
        float(number) * _UNITS[unit]
        for number, unit in _AMOUNT.findall(found[1] if found else "")[:2]
    ]
    if "RESOURCE_EXHAUSTED" not in message or len(amounts) < 2:
        return None
    return Refused(*map(round, amounts))
