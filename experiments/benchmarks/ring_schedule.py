"""What XLA schedules for real TPU pods, compiled offline (extra `tpu`): no TPU is present and nothing runs."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import NamedTuple

TOPOLOGIES = {"v5e:4x4": 16, "v5p:4x4x4": 64}
_TOKENS = 4096  # a device
_START = re.compile(r"%(collective-permute-start[.\d]*) = ")
_DONE = re.compile(r"collective-permute-done\(%?(collective-permute-start[.\d]*)\)")
_COMPUTE = re.compile(r" (fusion|while|convolution|dot)\(")
_PRODUCTS = re.compile(r" (while|convolution|dot)\(|fusion\(.*kind=kOutput")  # matrix products, or the loop over chunks of them


class Schedule(NamedTuple):
    """Permutes of a compiled program, how many have computation, and how many matrix products, between their start and end."""

    topology: str
    devices: int
    permutes: int
    hidden: int
    behind_products: int
    temporary_bytes: int


def available() -> bool:
    """Whether the TPU compiler is installed."""
    return importlib.util.find_spec("libtpu") is not None


def schedule(topology: str, devices: int) -> Schedule:
    """Compiles the ring, forward and backward, in bfloat16: 4 heads of 128 and 4,096 tokens on each of the first `devices`."""
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from agentic_transformer.ring import ring_attention

    described = topologies.get_topology_desc(topology, "tpu").devices
    mesh = Mesh(np.array(described)[:devices], ("ring",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "ring"))
    x = jax.ShapeDtypeStruct((1, _TOKENS * devices, 4, 128), jnp.bfloat16, sharding=sharding)

    def both(query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array) -> tuple:
        output, pull = jax.vjp(lambda *arrays: ring_attention(*arrays, mesh=mesh), query, key, value)
        return output, pull(cotangent)

    compiled = jax.jit(both).lower(x, x, x, x).compile()
    return Schedule(topology, devices, *overlap(compiled.as_text()), compiled.memory_analysis().temp_size_in_bytes)


def overlap(program: str) -> tuple[int, int, int]:
    """Counts the permutes of a scheduled program, those with computation between start and end, those with matrix products."""
    started: dict[str, tuple[bool, bool]] = {}
    permutes = hidden = behind_products = 0
    for line in program.splitlines():
        if match := _DONE.search(line):
            computed, multiplied = started.pop(match[1])
            hidden += computed
            behind_products += multiplied
        elif match := _START.search(line):
            started[match[1]] = (False, False)
            permutes += 1
        elif _COMPUTE.search(line):
            products = _PRODUCTS.search(line) is not None
            started = {name: (True, multiplied or products) for name, (_, multiplied) in started.items()}
    return permutes, hidden, behind_products
