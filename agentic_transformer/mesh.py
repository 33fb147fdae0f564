"""Devices as a mesh of (data, ring): the batch is sharded over `data`, the sequence over `ring`, parameters are replicated."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agentic_transformer.ring import to_layout
from agentic_transformer.tokens import Tokens

DATA, RING = "data", "ring"
PADDING_SEGMENT = -1


def make_mesh(ring: int) -> Mesh:
    """A mesh over all devices; `jax.make_mesh` places ring neighbours next to each other on a torus.

    Args:
        ring: devices that share one sequence; the data axis takes what is left.

    Raises:
        ValueError: the ring's size does not divide the number of devices.
    """
    devices = jax.device_count()
    if devices % ring:
        divisors = [size for size in range(1, devices + 1) if devices % size == 0]
        raise ValueError(
            f"mesh.ring={ring} must divide the {devices} device(s) here (one of {divisors}); "
            f"on a machine without accelerators mesh.virtual_devices={ring} makes that many"
        )
    return jax.make_mesh((devices // ring, ring), (DATA, RING), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of parameters and optimiser state: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place(tokens: Tokens, mesh: Mesh, layout: str) -> Tokens:
    """Token rows on the mesh, in the order in which the ring's devices hold the sequence.

    The sequence is permuted here, once; every layer then works in that order. It is padded to what the ring needs; padding has
    weight 0.

    Args:
        tokens: (B, S) rows in natural order.
        mesh: of `make_mesh`.
        layout: "zigzag" or "contiguous".

    Raises:
        ValueError: the rows do not divide over the data axis.
    """
    rows, data = tokens.weight.shape[0], mesh.shape[DATA]
    if rows % data:
        raise ValueError(f"train.batch={rows} must be a multiple of the {data} devices of the mesh's data axis")
    sharding = NamedSharding(mesh, PartitionSpec(DATA, RING))
    fills = Tokens(features=0, timestep=0, segment=PADDING_SEGMENT, action=0, weight=0)
    ordered = (to_layout(x, mesh.shape[RING], layout, fill=fill) for x, fill in zip(tokens, fills, strict=True))
    return Tokens(*(jax.device_put(x, sharding) for x in ordered))
