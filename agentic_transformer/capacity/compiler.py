"""The train step, compiled for a TPU topology that is not there: the compiler's own account of
memory, or its refusal.

Nothing runs. That the compiler accepts a program is no promise that a chip would run it to the end.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from agentic_transformer.capacity import schedule
from agentic_transformer.capacity.schedule import Permute
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import TrainConfig
from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.training import sharding
from agentic_transformer.training.state import TrainState, abstract_state, make_optimizer
from agentic_transformer.training.step import TrainStep, make_train_step

NEEDED = "compiling for TPUs needs their compiler, but no TPU: make install EXTRAS=tpu; compile=nothing estimates without it"

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSED = re.compile(
    r"Ran out of memory (?:on|in memory space) hbm\b(.*)", re.IGNORECASE | re.DOTALL
)
_AMOUNT = re.compile(r"\b([\d.]+)([KMGT]?)\b")


class Memory(NamedTuple):
    """Bytes on each device of a program that the compiler accepts.

    Attributes:
        peak: most that is held at one time, as the compiler plans it.
        arguments: the state and the tokens that go in.
        outputs: what comes out.
        shared: of arguments and outputs, counted in both: the state is updated in place.
        temporary: all the space set aside for what lies between; parts of it may never be held
            together.
    """

    peak: int
    arguments: int
    outputs: int
    shared: int
    temporary: int

    @property
    def conservative(self) -> int:
        """The sum of all, a bound on what is held."""
        return self.arguments + self.outputs - self.shared + self.temporary


class Refused(NamedTuple):
    """The compiler refuses a program that does not fit.

    Attributes:
        required: bytes on each device that it would need.
        available: bytes that it may use.
    """

    required: int
    available: int


class Accepted(NamedTuple):
    """The compiler accepts a program.

    Attributes:
        memory: what it takes.
        permutes: as they are scheduled; none of a fast compilation, whose schedule is not what
            would run.
    """

    memory: Memory
    permutes: tuple[Permute, ...]


def available() -> bool:
    """Whether the TPU compiler is installed."""
    return importlib.util.find_spec("libtpu") is not None


def compile_step(workload: Workload, *, fast: bool) -> Accepted | Refused:
    """Compiles the train step of `make_train_step` for a workload's topology.

    Args:
        workload: on a TPU topology.
        fast: spend as little as may be on the time the program would take: its memory hardly
            changes, but its schedule is not what would run.

    Raises:
        ValueError: the compiler is not installed.
    """
    step, state, tokens = lowerable(workload, described_devices(workload.topology.name))
    lowered = step.lower(state, tokens)
    try:
        compiled = lowered.compile({"exec_time_optimization_effort": -1.0} if fast else None)
    except jax.errors.JaxRuntimeError as error:
        refused = refusal(str(error))
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
    return Accepted(memory, () if fast else tuple(schedule.permutes(compiled.as_text())))


def described_devices(name: str) -> list:
    """The devices of a TPU topology, described by the compiler.

    Raises:
        ValueError: the compiler is not installed.
    """
    if not available():
        raise ValueError(NEEDED)
    # Without these libtpu looks for the machine that it is on, which is no TPU, and waits for
    # answers.
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    os.environ |= quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from jax.experimental import topologies

    return topologies.get_topology_desc(name, "tpu").devices


def lowerable(workload: Workload, devices: list) -> tuple[TrainStep, TrainState, Tokens]:
    """The train step on some devices, and the shapes of its state and tokens, which may be lowered
    without data.
    """
    mesh = sharding.make_mesh(workload.ring, devices)
    optimizer, _ = make_optimizer(TrainConfig())
    description = workload.description
    graph, state = abstract_state(lambda: description.build(0), optimizer, mesh, fsdp=True)
    on_mesh = NamedSharding(mesh, PartitionSpec(sharding.DATA, sharding.RING))

    def outline(*entries: int, dtype: jnp.dtype = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (workload.sequences, workload.context, *entries), dtype, sharding=on_mesh
        )

    tokens = Tokens(
        features=outline(description.layout().feature_size),
        timestep=outline(dtype=jnp.int32),
        segment=outline(dtype=jnp.int32),
        action=outline(description.action_size),
        weight=outline(),
    )
    step = make_train_step(graph, optimizer, workload.model, mesh, workload.context, fsdp=True)
    return step, state, tokens


def refusal(said: str) -> Refused | None:
    """What a compiler's error says of a device's memory; None if it is about something else, such
    as a core's VMEM.

    Its words: "RESOURCE_EXHAUSTED: ... Ran out of memory on HBM, the total memory required for HLO
    temporaries (97.06G) exceeds available HBM (95.74G).", or "RESOURCE_EXHAUSTED: ... Ran out of
    memory in memory space hbm. Used 20.1G of 15.75G hbm."
    """
    found = _REFUSED.search(said)
    amounts = [
        float(number) * _UNITS[unit]
        for number, unit in _AMOUNT.findall(found[1] if found else "")[:2]
    ]
    if "RESOURCE_EXHAUSTED" not in said or len(amounts) < 2:
        return None
    return Refused(*map(round, amounts))
