"""Defines the order in which the devices of a ring hold a sequence.

A sequence of `S` tokens on a ring of `N` devices is cut into `2 N` equal blocks, two for each
device. In the "contiguous" layout device `i` holds blocks `2 i` and `2 i + 1`; in the "zigzag"
layout blocks `i` and `2 N - 1 - i`, so that under a causal mask every device has the same work at
every step of the ring. Arrays are permuted once, at the input; everything after that, positions
included, lives in layout order.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agentic_transformer.ring.mesh import map_without_mesh
from agentic_transformer.ring.validation import check_one_of, check_whole

LAYOUTS = ("contiguous", "zigzag")


def check_layout(layout: str) -> None:
    """Raises ValueError unless `layout` is one of `LAYOUTS`."""
    check_one_of("layout", layout, LAYOUTS)


def padded_length(length: int, ring_size: int) -> int:
    """Returns the smallest multiple of `2 * ring_size` that holds `length` tokens."""
    block = 2 * check_whole("ring_size", ring_size)
    return max(1, -(-check_whole("length", length, 0) // block)) * block


def block_order(ring_size: int, layout: str) -> np.ndarray:
    """Returns the natural block at each place of the layout, (2 * ring_size,)."""
    check_layout(layout)
    check_whole("ring_size", ring_size)
    order = np.arange(2 * ring_size)
    if layout == "zigzag":
        order = np.stack([order[:ring_size], order[::-1][:ring_size]], axis=1).reshape(-1)
    return order


def to_layout(x: Any, ring_size: int, layout: str, axis: int = 1, fill: Any = 0) -> Any:
    """Permutes an array from natural order to the order in which the devices of a ring hold it.

    Args:
        x: a numpy or jax array of any dtype with the sequence, in natural order, along `axis`.
        ring_size: number of devices on the ring.
        layout: "contiguous" or "zigzag".
        axis: the sequence axis.
        fill: what the padding holds.

    Returns:
        An array of the same kind, its sequence padded with `fill` to a multiple of `2 * ring_size`.
        The padding comes last in natural order.

    Raises:
        ValueError: the array has no such axis, its dtype cannot hold `fill`, or ring_size is less
            than 1.
    """
    order = block_order(ring_size, layout)
    length = _size(x, axis)
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, padded_length(length, ring_size) - length)
    if padding[axis][1]:
        _check_fill(fill, x.dtype)
        x = (jnp if isinstance(x, jax.Array) else np).pad(x, padding, constant_values=fill)
    return _permute_blocks(x, order, axis)


def from_layout(
    y: Any, ring_size: int, layout: str, axis: int = 1, length: int | None = None
) -> Any:
    """Inverts `to_layout`: layout order back to natural order.

    Args:
        y: a numpy or jax array in layout order; its size along `axis` is a multiple of `2 *
            ring_size`.
        ring_size: number of devices on the ring.
        layout: "contiguous" or "zigzag".
        axis: the sequence axis.
        length: number of tokens to keep, which drops the padding; None keeps all.

    Returns:
        An array of the same kind in natural order.

    Raises:
        ValueError: the array has no such axis, or its size or the length does not fit.
    """
    order = block_order(ring_size, layout)
    size = _size(y, axis)
    if size % (2 * ring_size):
        raise ValueError(
            f"sequence of {size} along axis {axis} is not a multiple of "
            f"2 * ring_size = {2 * ring_size}; {padded_length(size, ring_size)} would fit"
        )
    if length is not None:
        length = check_whole("length", length, 0, size)
    x = _permute_blocks(y, np.argsort(order), axis)
    if length is None or length == size:
        return x
    keep = [slice(None)] * x.ndim
    keep[axis] = slice(0, length)

    def cut(x: Any) -> Any:
        return x[tuple(keep)]

    # The tokens that are kept may not divide over the devices.
    return map_without_mesh(cut, whole_axis=axis)(x) if isinstance(x, jax.Array) else cut(x)


def shard_blocks(
    index: jax.Array | int, ring_size: int, layout: str
) -> tuple[jax.Array | int, jax.Array | int]:
    """Returns the two natural blocks of device `index`, which may be traced."""
    if layout == "zigzag":
        return index, 2 * ring_size - 1 - index
    return 2 * index, 2 * index + 1


def shard_positions(index: jax.Array | int, tokens: int, ring_size: int, layout: str) -> jax.Array:
    """Returns the natural positions of the tokens that device `index` of the ring holds.

    Args:
        index: the device's place on the ring, () int32; may be traced.
        tokens: tokens a device holds, even.
        ring_size: number of devices on the ring.
        layout: "contiguous" or "zigzag".

    Returns:
        (tokens,) int32.
    """
    half = tokens // 2
    first, second = shard_blocks(index, ring_size, layout)
    within = jnp.arange(half, dtype=jnp.int32)
    return jnp.concatenate([first * half + within, second * half + within])


def positions(size: int, ring_size: int, layout: str) -> np.ndarray:
    """Returns the natural position of every place of a sequence in layout order, (size,) int32.

    Raises:
        ValueError: `size` is not a multiple of `2 * ring_size`: padding has no position.
    """
    fits = padded_length(check_whole("size", size), ring_size)
    if size != fits:
        raise ValueError(
            f"size={size} must be a multiple of 2 * ring_size = {2 * ring_size}; {fits} would fit"
        )
    return to_layout(np.arange(size, dtype=np.int32), ring_size, layout, axis=0)


def _permute_blocks(x: Any, order: np.ndarray, axis: int) -> Any:
    if np.array_equal(order, np.arange(order.size)):
        return x
    axis = axis % x.ndim
    shape = (*x.shape[:axis], order.size, x.shape[axis] // order.size, *x.shape[axis + 1 :])

    def permute(x: Any) -> Any:
        return x.reshape(shape).take(order, axis=axis).reshape(x.shape)

    # The sequence may be an explicitly sharded axis, along which JAX cannot `take`.
    return map_without_mesh(permute)(x) if isinstance(x, jax.Array) else permute(x)


def _size(x: Any, axis: int) -> int:
    """Returns an array's size along its sequence; ValueError if it is no array with that axis."""
    if not isinstance(x, jax.Array | np.ndarray):
        raise ValueError(
            f"what is laid out is a {type(x).__name__}; it must be a numpy or JAX array"
        )
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise ValueError(f"what is laid out are PRNG keys, {x.dtype}; lay out their key data")
    return x.shape[check_whole("axis", axis, -x.ndim, x.ndim - 1)]


def _check_fill(fill: Any, dtype: np.dtype) -> None:
    """Raises ValueError where padding would hold another number than `fill`."""
    if dtype.kind not in "biu" or isinstance(fill, jax.Array):
        return
    with np.errstate(invalid="ignore"):
        held = np.asarray(fill).astype(dtype)
    if held != fill:
        raise ValueError(f"fill={fill!r} is no value of the array's dtype {dtype}")
