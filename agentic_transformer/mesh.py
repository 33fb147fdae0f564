"""Devices as a mesh of (data, ring): the batch is sharded over `data`, the sequence over `ring`.

Parameters and optimiser state are replicated, or sharded over `data` too (FSDP; ZeRO, arXiv 1910.02054). The mesh may span
several processes, each of which then brings only the rows of the batch that its own devices hold.
"""

from __future__ import annotations

import jax
import numpy as np
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


def state_sharding(shape: tuple[int, ...], mesh: Mesh, fsdp: bool) -> NamedSharding:
    """Sharding of an array of parameters or optimiser state: a copy on every device, or a part on each of the data axis.

    Args:
        shape: of the array.
        mesh: of `make_mesh`.
        fsdp: whether it is cut along its longest axis that divides evenly, if any does.
    """
    even = [(size, axis) for axis, size in enumerate(shape) if size and size % mesh.shape[DATA] == 0]
    if not fsdp or not even:
        return NamedSharding(mesh, PartitionSpec())
    axis = max(even)[1]
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))


def local_rows(mesh: Mesh, rows: int, accumulate: int = 1) -> np.ndarray:
    """Which rows of a batch the devices of this process hold, ascending.

    Args:
        mesh: of `make_mesh`.
        rows: of the batch, over all processes.
        accumulate: parts into which each device's rows will be cut.

    Raises:
        ValueError: the rows do not divide.
    """
    data = mesh.shape[DATA]
    if rows % (data * accumulate):
        times = f", times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise ValueError(f"train.batch={rows} must be a multiple of the {data} devices of the mesh's data axis{times}")
    return np.arange(rows).reshape(data, -1)[_data_positions(mesh)].reshape(-1)


def _data_positions(mesh: Mesh) -> list[int]:
    """Places along the data axis where this process has devices."""
    here = jax.process_index()
    return sorted({position for (position, _), device in np.ndenumerate(mesh.devices) if device.process_index == here})


def place(tokens: Tokens, mesh: Mesh, layout: str) -> Tokens:
    """Token rows on the mesh, in the order in which the ring's devices hold the sequence.

    The sequence is permuted here, once; every layer then works in that order. It is padded to what the ring needs; padding has
    weight 0.

    Args:
        tokens: rows in natural order; of several processes each hands in its `local_rows`.
        mesh: of `make_mesh`.
        layout: "zigzag" or "contiguous".

    Raises:
        ValueError: the rows do not divide over the data axis.
    """
    rows = tokens.weight.shape[0] * mesh.shape[DATA] // len(_data_positions(mesh))
    here = local_rows(mesh, rows)
    sharding = NamedSharding(mesh, PartitionSpec(DATA, RING))
    fills = Tokens(features=0, timestep=0, segment=PADDING_SEGMENT, action=0, weight=0)
    ordered = (to_layout(x, mesh.shape[RING], layout, fill=fill) for x, fill in zip(tokens, fills, strict=True))

    def put(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            first = np.searchsorted(here, start)
            return x[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    return Tokens(*map(put, ordered))
