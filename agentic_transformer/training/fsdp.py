"""Shards parameters and optimizer state over all devices of the mesh (FSDP).

This is stage 3 of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): every device holds a part of
the state, including devices of the same ring. A layer's parameters are gathered just before the
layer uses them.
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

    Without `fsdp` every device holds a copy. With it the longest axis is cut into gcd(axis size,
    number of devices) equal parts. The next axis is cut in the same way over the unused factor of
    the number of devices, and so on: a width of 3200 on 256 devices is cut into 128 parts, and the
    next axis into 2. Devices still unused after the last axis hold copies.

    Args:
        shape: shape of the array.
        mesh: devices.
        fsdp: whether the array is cut.
    """
    if not fsdp:
        return NamedSharding(mesh, PartitionSpec())
    primes_by_axis = _primes_by_axis(shape, mesh.size)
    names = [tuple(map(_axis_name, indices)) or None for indices in primes_by_axis]
    return NamedSharding(_factored_mesh(mesh), PartitionSpec(*names))


def shard_shape(shape: tuple[int, ...], devices: int) -> tuple[int, ...]:
    """Returns the shape of the part of an array that each device holds under FSDP.

    Args:
        shape: shape of the array.
        devices: number of devices.
    """
    primes = _prime_factors(devices)
    return tuple(
        size // math.prod(primes[prime_index] for prime_index in indices)
        for size, indices in zip(shape, _primes_by_axis(shape, devices), strict=True)
    )


def all_gather_params(params: Any, mesh: Mesh, dtype: jnp.dtype) -> Any:
    """Gathers sharded parameters, whole on every device.

    Call it where the parameters are used, so that they are whole for no longer than that.

    Args:
        params: tree of arrays, sharded as `state_sharding` says.
        mesh: devices.
        dtype: matrices are cast to it before they are sent, and their gradients are sent in it
            (vectors keep their type). Each device receives its own part of the summed gradient.
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
    # a scalar carries the dtype to the backward pass
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
    primes = _prime_factors(mesh.size)
    return Mesh(mesh.devices.reshape(primes), list(map(_axis_name, range(len(primes)))))


def _axis_name(prime_index: int) -> str:
    return f"factor{prime_index}"


def _primes_by_axis(shape: tuple[int, ...], devices: int) -> list[list[int]]:
    """Returns which prime factors of the device count cut each axis of an array, by their index."""
    primes, primes_by_axis = _prime_factors(devices), [[] for _ in shape]
    unused = list(range(len(primes)))
    for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
        size = shape[axis]
        for prime_index in tuple(unused):
            prime = primes[prime_index]
            if size % prime == 0:
                size //= prime
                primes_by_axis[axis].append(prime_index)
                unused.remove(prime_index)
    return primes_by_axis


def _prime_factors(number: int) -> list[int]:
    primes = []
    while number > 1:
        primes.append(next(prime for prime in range(2, number + 1) if number % prime == 0))
        number //= primes[-1]
    return primes
