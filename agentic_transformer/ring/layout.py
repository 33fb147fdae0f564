"""The order in which the devices of a ring hold a sequence.

A sequence of `S` tokens on a ring of `N` devices is cut into `2 N` equal blocks, two for each device. In the "contiguous"
layout device `i` holds blocks `2 i` and `2 i + 1`; in the "zigzag" layout blocks `i` and `2 N - 1 - i`, so that under a
causal mask every device has the same work at every step of the ring. Arrays are permuted once, at the input; everything
after that, positions included, lives in layout order.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LAYOUTS = ("contiguous", "zigzag")


def check_layout(layout: str) -> None:
    """Raises ValueError unless `layout` is one of `LAYOUTS`."""
    if layout not in LAYOUTS:
        nearest = get_close_matches(str(layout), LAYOUTS, n=1, cutoff=0.0)[0]
        raise ValueError(f"layout={layout!r} is not one of {LAYOUTS}; did you mean {nearest!r}?")


def padded_length(length: int, ring_size: int) -> int:
    """The smallest multiple of `2 * ring_size` that holds `length` tokens."""
    block = 2 * ring_size
    return max(1, -(-length // block)) * block


def block_order(ring_size: int, layout: str) -> np.ndarray:
    """Which of the `2 * ring_size` natural blocks stands at each place of the layout, shape (2 * ring_size,)."""
    check_layout(layout)
    order = np.arange(2 * ring_size)
    if layout == "zigzag":
        order = np.stack([order[:ring_size], order[::-1][:ring_size]], axis=1).reshape(-1)
    return order


def to_layout(x: Any, ring_size: int, layout: str, axis: int = 1, fill: Any = 0) -> Any:
    """Permutes an array from natural order to the order in which the devices of a ring hold the sequence.

    Args:
        x: a numpy or jax array of any dtype with the sequence, in natural order, along `axis`.
        ring_size: number of devices on the ring.
        layout: "contiguous" or "zigzag".
        axis: the sequence axis.
        fill: what the padding holds.

    Returns:
        An array of the same kind, its sequence padded with `fill` to a multiple of `2 * ring_size`. The padding comes last
        in natural order.
    """
    _check_ring_size(ring_size)
    length = x.shape[axis]
    padding = [(0, 0)] * x.ndim
    padding[axis] = (0, padded_length(length, ring_size) - length)
    if padding[axis][1]:
        x = (jnp if isinstance(x, jax.Array) else np).pad(x, padding, constant_values=fill)
    return _permute_blocks(x, block_order(ring_size, layout), axis)


def from_layout(y: Any, ring_size: int, layout: str, axis: int = 1, length: int | None = None) -> Any:
    """Inverts `to_layout`: layout order back to natural order.

    Args:
        y: a numpy or jax array in layout order; its size along `axis` is a multiple of `2 * ring_size`.
        ring_size: number of devices on the ring.
        layout: "contiguous" or "zigzag".
        axis: the sequence axis.
        length: number of tokens to keep, which drops the padding; None keeps all.

    Returns:
        An array of the same kind in natural order.
    """
    _check_ring_size(ring_size)
    size = y.shape[axis]
    if size % (2 * ring_size):
        raise ValueError(
            f"sequence of {size} along axis {axis} is not a multiple of 2 * ring_size = {2 * ring_size}; "
            f"{padded_length(size, ring_size)} would fit"
        )
    if length is not None and not 0 <= length <= size:
        raise ValueError(f"length={length} is outside 0..{size}, the sequence along axis {axis}")
    x = _permute_blocks(y, np.argsort(block_order(ring_size, layout)), axis)
    if length is None or length == size:
        return x
    keep = [slice(None)] * x.ndim
    keep[axis] = slice(0, length)
    return x[tuple(keep)]


def shard_positions(index: jax.Array | int, tokens: int, ring_size: int, layout: str) -> jax.Array:
    """Natural positions of the tokens that device `index` of the ring holds.

    Args:
        index: the device's place on the ring, () int32; may be traced.
        tokens: tokens a device holds, even.
        ring_size: number of devices on the ring.
        layout: "contiguous" or "zigzag".

    Returns:
        (tokens,) int32.
    """
    half = tokens // 2
    first, second = (index, 2 * ring_size - 1 - index) if layout == "zigzag" else (2 * index, 2 * index + 1)
    within = jnp.arange(half, dtype=jnp.int32)
    return jnp.concatenate([first * half + within, second * half + within])


def positions(size: int, ring_size: int, layout: str) -> np.ndarray:
    """Natural position of every place of a sequence of `size` in layout order, (size,) int32."""
    return to_layout(np.arange(size, dtype=np.int32), ring_size, layout, axis=0)


def _permute_blocks(x: Any, order: np.ndarray, axis: int) -> Any:
    if np.array_equal(order, np.arange(order.size)):
        return x
    axis = axis % x.ndim
    blocks = x.reshape(*x.shape[:axis], order.size, x.shape[axis] // order.size, *x.shape[axis + 1 :])
    return blocks.take(order, axis=axis).reshape(x.shape)


def _check_ring_size(ring_size: int) -> None:
    if ring_size < 1:
        raise ValueError(f"ring_size={ring_size} is not a number of devices; at least 1")
