"""Shards parameters and optimizer state over all devices of the mesh (FSDP).

This is stage 3 of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): every device holds a part of
the state, those of a ring too. A layer's parameters are gathered just before the layer uses them.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def state_sharding(shape: tuple[int, ...], mesh: Mesh, fsdp: bool) -> NamedSharding:
    """Returns how an array of the train state lies on the mesh.

    Without `fsdp` every device holds a copy. With it the longest axis is cut into as many equal
    parts as divide both the axis and the number of devices. The next axis is cut by what is left of
    the devices, and so on: a width of 3200 on 256 devices is cut into 128 parts, and the next axis
    into 2. Devices that are left after the last axis hold copies.

    Args:
        shape: shape of the array.
        mesh: devices.
        fsdp: whether the array is cut.
    """
    if not fsdp:
        return NamedSharding(mesh, PartitionSpec())
    factors_by_axis = _factors_by_axis(shape, mesh.size)
    names = [tuple(map(_axis_name, factors)) or None for factors in factors_by_axis]
    return NamedSharding(_factored_mesh(mesh), PartitionSpec(*names))


def shard_shape(shape: tuple[int, ...], devices: int) -> tuple[int, ...]:
    """Returns the shape of the part of an array that each device holds under FSDP.

    Args:
        shape: shape of the array.
        devices: number of devices.
    """
    primes = _prime_factors(devices)
    return tuple(
        size // math.prod(primes[factor] for factor in factors)
        for size, factors in zip(shape, _factors_by_axis(shape, devices), strict=True)
    )


def all_gather_params(params: Any, mesh: Mesh, dtype: jnp.dtype) -> Any:
    """Gathers sharded parameters, whole on every device.

    Call it where the parameters are used, so that they are whole for no longer than that.

    Args:
        params: tree of arrays, sharded as `state_sharding` says.
        mesh: devices.
        dtype: type that matrices are multiplied in, and so travel in. Their gradients travel back
            in it. Each device receives the sum of its own part.
    """
    return jax.tree.map(lambda x: _gather(mesh, dtype if x.ndim > 1 else x.dtype, x), params)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(mesh: Mesh, dtype: jnp.dtype, x: jax.Array) -> jax.Array:
    """Casts a part to `dtype` and gathers the whole array: in that order, fewer bytes travel."""
    part = jax.lax.with_sharding_constraint(
        x.astype(dtype), state_sharding(x.shape, mesh, fsdp=True)
    )
    return jax.lax.with_sharding_constraint(part, state_sharding(x.shape, mesh, fsdp=False))


def _gather_forward(mesh: Mesh, dtype: jnp.dtype, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gather(mesh, dtype, x), jnp.zeros((), x.dtype)


def _gather_backward(
    mesh: Mesh, dtype: jnp.dtype, like: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array]:
    """Reduce-scatters the gradient: the constraint asks for a part of the sum over devices."""
    part = jax.lax.with_sharding_constraint(
        cotangent, state_sharding(cotangent.shape, mesh, fsdp=True)
    )
    return (part.astype(like.dtype),)


_gather.defvjp(_gather_forward, _gather_backward)


@lru_cache
def _factored_mesh(mesh: Mesh) -> Mesh:
    """Returns the same devices with an axis for each prime factor of their number.

    One mesh serves arrays of all shapes: an axis of an array is cut by any subset of the factors.
    """
    factors = _prime_factors(mesh.size)
    return Mesh(mesh.devices.reshape(factors), list(map(_axis_name, range(len(factors)))))


def _axis_name(factor: int) -> str:
    return f"factor{factor}"


def _factors_by_axis(shape: tuple[int, ...], devices: int) -> list[list[int]]:
    """Returns which prime factors of the device count cut each axis of an array."""
    primes, factors_by_axis = _prime_factors(devices), [[] for _ in shape]
    left = list(range(len(primes)))  # factors that cut no axis yet
    for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
        size = shape[axis]
        for factor in tuple(left):
            if size % primes[factor] == 0:
                size //= primes[factor]
                factors_by_axis[axis].append(factor)
                left.remove(factor)
    return factors_by_axis


def _prime_factors(number: int) -> list[int]:
    factors = []
    while number > 1:
        factors.append(next(factor for factor in range(2, number + 1) if number % factor == 0))
        number //= factors[-1]
    return factors
