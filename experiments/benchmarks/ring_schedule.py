"""Compiles the ring for TPU pods and reads the schedule that XLA makes (extra `tpu`).

No TPU is present and nothing runs.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agentic_transformer.capacity.compiler import describe_devices
from agentic_transformer.capacity.hlo_permutes import count_overlap, read_permutes
from agentic_transformer.ring import ring_attention
from experiments.benchmarks.attention_passes import directed

TOPOLOGIES = {"v5e:4x4": 16, "v5p:4x4x4": 64}
_TOKENS = 4096  # a device


class Schedule(NamedTuple):
    """Describes the permutes of a compiled program.

    Attributes:
        topology: the TPU pod.
        devices: devices on the ring.
        permutes: number of permutes.
        hidden: permutes with computation between their start and end.
        behind_products: permutes with matrix products there.
        temporary_bytes: temporary memory of a device.
    """

    topology: str
    devices: int
    permutes: int
    hidden: int
    behind_products: int
    temporary_bytes: int


def schedule(topology: str, devices: int) -> Schedule:
    """Compiles the ring, forward and backward, on the first `devices` of a pod.

    In bfloat16, with 4 heads of 128 and 4,096 tokens a device.
    """
    mesh = Mesh(np.array(describe_devices(topology))[:devices], ("ring",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "ring"))
    x = jax.ShapeDtypeStruct((1, _TOKENS * devices, 4, 128), jnp.bfloat16, sharding=sharding)
    both = directed(partial(ring_attention, mesh=mesh), "both")
    compiled = jax.jit(both).lower(x, x, x, x).compile()
    return Schedule(
        topology,
        devices,
        *overlap(compiled.as_text()),
        compiled.memory_analysis().temp_size_in_bytes,
    )


def overlap(program: str) -> tuple[int, int, int]:
    """Counts the permutes of a scheduled program.

    Returns:
        All, those with computation between start and end, and those with matrix products there.
    """
    found = count_overlap(read_permutes(program))
    return found.permutes, found.beside_computation, found.beside_products
