"""Devices as a mesh of (data, ring): the batch is sharded over `data`, the sequence over `ring`.

Parameters and optimiser state are replicated, or sharded over all devices, those of a ring too
(FSDP; ZeRO, arXiv 1910.02054). The mesh may span several processes, each of which then brings only
the rows of the batch that its own devices hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from agentic_transformer.contexts.tokens import Tokens
from agentic_transformer.ring import to_layout

DATA, RING = "data", "ring"
PADDING_SEGMENT = -1


def make_mesh(ring: int, described: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices; `jax.make_mesh` places ring neighbours next to each other on a
    torus.

    Args:
        ring: devices that share one sequence; the data axis takes what is left.
        described: the devices; None: those there are.

    Raises:
        ValueError: the ring's size does not divide the number of devices.
    """
    devices = jax.device_count() if described is None else len(described)
    if devices % ring:
        divisors = [size for size in range(1, devices + 1) if devices % size == 0]
        raise ValueError(
            f"mesh.ring={ring} must divide the {devices} device(s) here (one of {divisors}); "
            f"on a machine without accelerators mesh.virtual_devices={ring} makes that many"
        )
    automatic = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(
        (devices // ring, ring), (DATA, RING), axis_types=automatic, devices=described
    )


def state_sharding(shape: tuple[int, ...], mesh: Mesh, fsdp: bool) -> NamedSharding:
    """Sharding of an array of parameters or optimiser state: a copy on every device, or a part on
    each.

    Args:
        shape: of the array.
        mesh: of `make_mesh`.
        fsdp: whether it is cut: its longest axis into as many equal parts as divide both it and the
            devices, the next with what is left of the devices, and so on (a width of 3200 on 256
            devices: 128 by 2). What then is left holds copies.
    """
    if not fsdp:
        return NamedSharding(mesh, PartitionSpec())
    factors = [f"factor{number}" for number in range(len(_prime_factors(mesh.size)))]
    cut = (
        tuple(factors[number] for number in numbers) or None for numbers in _cuts(shape, mesh.size)
    )
    return NamedSharding(_factored(mesh), PartitionSpec(*cut))


def shard_shape(shape: tuple[int, ...], devices: int) -> tuple[int, ...]:
    """Shape of the part of an array that each device holds where `state_sharding` cuts it."""
    factors = _prime_factors(devices)
    cuts = _cuts(shape, devices)
    return tuple(
        size // math.prod(factors[number] for number in cut)
        for size, cut in zip(shape, cuts, strict=True)
    )


def _cuts(shape: tuple[int, ...], devices: int) -> list[list[int]]:
    """Which of the prime factors of a number of devices cut each axis of an array."""
    factors, cuts = _prime_factors(devices), [[] for _ in shape]
    left = list(range(len(factors)))
    for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
        size = shape[axis]
        for number in tuple(left):
            if size % factors[number] == 0:
                size //= factors[number]
                cuts[axis].append(number)
                left.remove(number)
    return cuts


def _prime_factors(number: int) -> list[int]:
    factors = []
    while number > 1:
        factors.append(next(factor for factor in range(2, number + 1) if number % factor == 0))
        number //= factors[-1]
    return factors


@lru_cache
def _factored(mesh: Mesh) -> Mesh:
    """The same devices with an axis for each prime factor of their number; one mesh for all of the
    state, whatever its shapes.
    """
    factors = _prime_factors(mesh.size)
    return Mesh(
        mesh.devices.reshape(factors), [f"factor{number}" for number in range(len(factors))]
    )


def all_gather_params(params: Any, mesh: Mesh, dtype: jnp.dtype) -> Any:
    """Parameters that are sharded over the devices, whole on every device.

    To be called where they are needed, so that they are whole for no longer.

    Args:
        params: a tree of arrays, sharded as `state_sharding` says.
        mesh: of `make_mesh`.
        dtype: what matrices are multiplied in, and so travel in; their gradients travel back in it,
            each device receiving the sum of its own part.
    """
    return jax.tree.map(lambda x: _gathered(mesh, dtype if x.ndim > 1 else x.dtype, x), params)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(mesh: Mesh, dtype: jnp.dtype, x: jax.Array) -> jax.Array:
    part = jax.lax.with_sharding_constraint(
        x.astype(dtype), state_sharding(x.shape, mesh, fsdp=True)
    )
    return jax.lax.with_sharding_constraint(part, state_sharding(x.shape, mesh, fsdp=False))


def _gathered_forward(mesh: Mesh, dtype: jnp.dtype, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gathered(mesh, dtype, x), jnp.zeros((), x.dtype)


def _gathered_backward(
    mesh: Mesh, dtype: jnp.dtype, like: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array]:
    part = jax.lax.with_sharding_constraint(
        cotangent, state_sharding(cotangent.shape, mesh, fsdp=True)
    )
    return (part.astype(like.dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


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
        times = f", times train.grad_accum_steps={accumulate}" if accumulate > 1 else ""
        raise ValueError(
            f"train.batch={rows} must be a multiple of the {data} devices of the mesh's data axis{times}"
        )
    return np.arange(rows).reshape(data, -1)[_data_positions(mesh)].reshape(-1)


def _data_positions(mesh: Mesh) -> list[int]:
    """Places along the data axis where this process has devices."""
    here = jax.process_index()
    return sorted(
        {
            position
            for (position, _), device in np.ndenumerate(mesh.devices)
            if device.process_index == here
        }
    )


def shard_batch(tokens: Tokens, mesh: Mesh, layout: str) -> Tokens:
    """Token rows on the mesh, in the order in which the ring's devices hold the sequence.

    The sequence is permuted here, once; every layer then works in that order. It is padded to what
    the ring needs; padding has weight 0.

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
    ordered = (
        to_layout(x, mesh.shape[RING], layout, fill=fill)
        for x, fill in zip(tokens, fills, strict=True)
    )

    def put(x: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(rows)
            first = np.searchsorted(here, start)
            return x[(slice(first, first + stop - start), *index[1:])]

        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, part)

    return Tokens(*map(put, ordered))
