"""Shards batches over a mesh of (data, ring): rows over `data`, the sequence over `ring`.

The mesh may span several processes. Each process then brings only the rows that its own devices
hold. How the train state is sharded stands in `agentic_transformer.training.fsdp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.ring import to_layout

DATA, RING = "data", "ring"
PADDING_SEGMENT = -1


def make_mesh(ring: int, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over all devices.

    `jax.make_mesh` puts neighbours of a ring next to each other on a torus.

    Args:
        ring: devices that share one sequence; the data axis gets the rest.
        devices: the devices; None takes those of this program.

    Raises:
        ValueError: the ring's size does not divide the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    if count % ring:
        divisors = [size for size in range(1, count + 1) if count % size == 0]
        raise ValueError(
            f"mesh.ring={ring} must divide the {count} device(s) here (one of {divisors}); "
            f"on a machine without accelerators mesh.virtual_devices={ring} makes that many"
        )
    automatic = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((count // ring, ring), (DATA, RING), axis_types=automatic, devices=devices)


def local_rows(mesh: Mesh, batch: int, grad_accum_steps: int = 1) -> np.ndarray:
    """Returns which rows of a batch the devices of this process hold, ascending.

    Args:
        mesh: devices of all processes.
        batch: rows of the batch, over all processes.
        grad_accum_steps: micro-batches into which each device's rows will be cut.

    Raises:
        ValueError: the rows do not divide.
    """
    data = mesh.shape[DATA]
    if batch % (data * grad_accum_steps):
        times = f", times train.grad_accum_steps={grad_accum_steps}" if grad_accum_steps > 1 else ""
        raise ValueError(
            f"train.batch={batch} must be a multiple of the {data} devices "
            f"of the mesh's data axis{times}"
        )
    return np.arange(batch).reshape(data, -1)[_local_data_indices(mesh)].reshape(-1)


def _local_data_indices(mesh: Mesh) -> list[int]:
    """Returns the indices along the data axis at which this process has devices."""
    here = jax.process_index()
    return sorted(
        {
            data_index
            for (data_index, _), device in np.ndenumerate(mesh.devices)
            if device.process_index == here
        }
    )


def shard_batch(tokens: Tokens, mesh: Mesh, layout: str) -> Tokens:
    """Puts token rows on the mesh, in the order in which the ring's devices hold the sequence.

    The sequence is permuted here, once, and every layer then works in that order. The sequence is
    padded to a multiple of the ring's blocks. Padding has weight 0 and a segment of its own.

    Args:
        tokens: rows in natural order; each process brings its `local_rows`.
        mesh: devices of all processes.
        layout: "zigzag" or "contiguous".

    Returns:
        Tokens of global arrays (B, S, ...), sharded over data and ring.

    Raises:
        ValueError: the rows do not divide over the data axis.
    """
    batch = tokens.weight.shape[0] * mesh.shape[DATA] // len(_local_data_indices(mesh))
    local = local_rows(mesh, batch)
    sharding = NamedSharding(mesh, PartitionSpec(DATA, RING))
    fills = Tokens(
        features=0, timestep=0, segment=PADDING_SEGMENT, action=0, weight=0, rest_return=0
    )

    # (local rows, S, ...) -> global (B, S, ...)
    def to_devices(x: np.ndarray | None, fill: int) -> jax.Array | None:
        if x is None:
            return None
        x = to_layout(x, mesh.shape[RING], layout, fill=fill)

        def shard(index: tuple[slice, ...]) -> np.ndarray:
            # The index counts rows of the whole batch. This process has only its local rows.
            start, stop, _ = index[0].indices(batch)
            first = np.searchsorted(local, start)
            return x[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback((batch, *x.shape[1:]), sharding, shard)

    return Tokens(*map(to_devices, tokens, fills))
