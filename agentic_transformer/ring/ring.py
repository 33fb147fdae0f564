"""Exact attention over a sequence sharded on a ring of devices, for use inside a `jax.shard_map`.

Ring Attention (Liu, Zaharia and Abbeel 2023, arXiv 2310.01889): every device keeps its queries;
keys and values travel around the ring. The permute of the next block is started before the
attention to this one, and only ever sends what the step began with, so that the transfer and the
computation are independent. The gradients of keys and values travel one step behind them, for the
same reason. The ring is a rolled loop: memory does not grow with the number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from agentic_transformer.ring.checks import check_attention, check_kernel
from agentic_transformer.ring.hidden import finite, marked, signed, with_lengths
from agentic_transformer.ring.kernel import BlockKernel, Running
from agentic_transformer.ring.layout import check_layout, shard_positions
from agentic_transformer.ring.plain import plain_kernel
from agentic_transformer.ring.visibility import NOWHERE, Keys, Queries, queries_at


class Setting(NamedTuple):
    """What of a ring is known when it is traced."""

    axis: str | None  # mesh axis of the ring; None: one device, no collectives
    ring_size: int
    causal: bool
    layout: str
    window: int | None
    kernel: BlockKernel
    # every device collects all keys and values before it starts, instead of passing them on
    gathered: bool = False


def ring_attention_shard(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    axis: str | None = "ring",
    causal: bool = True,
    layout: str = "zigzag",
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
    kernel: BlockKernel | None = None,
    gathered: bool = False,
) -> jax.Array:
    """Ring attention of one device's part of a sequence, inside a `jax.shard_map` over mesh axis
    `axis`.

    Args:
        query: (batch, tokens, heads, head_dim), this device's tokens, in layout order; tokens even.
        key: (batch, tokens, key_heads, head_dim) of query's dtype, key_heads a divisor of heads.
        value: as key.
        axis: the mesh axis of the ring; None for a single device.
        causal: whether a query sees only keys up to its own position.
        layout: the order of the tokens, "contiguous" or "zigzag".
        segment_ids: (batch, tokens) integers; attention only within equal ids.
        window: a query sees the last `window` keys only, its own included.
        length: natural positions from here on are padding; an integer, or (batch,) integers.
        kernel: the block kernel; plain JAX if None.
        gathered: collect all keys and values on every device first (an all-gather), the alternative
            a ring is compared with.

    Returns:
        (batch, tokens, heads, head_dim) of query's dtype.

    Raises:
        ValueError: as `ring_attention`, and outside of a `jax.shard_map` over `axis`.
    """
    ring_size = _axis_size(axis)
    check_layout(layout)
    check_kernel(kernel)
    setting = {"causal": causal, "window": window}
    check_attention(query, key, value, segment_ids, **setting, length=length, ring_size=ring_size)
    if query.shape[1] % 2:
        raise ValueError(
            f"query {query.shape} must have two blocks of tokens, an even number of them"
        )
    if length is not None and jnp.ndim(length):
        whole = partial(
            ring_attention_shard,
            axis=axis,
            layout=layout,
            kernel=kernel,
            gathered=gathered,
            **setting,
        )

        def attend(query, key, value, segment_ids):
            return whole(query, key, value, segment_ids=segment_ids)

        index = 0 if axis is None else lax.axis_index(axis)
        at = shard_positions(index, query.shape[1], ring_size, layout)
        return with_lengths(attend, (query, key, value), segment_ids, at, length)
    kernel = kernel or plain_kernel(jax.default_backend())
    setting = Setting(
        axis if ring_size > 1 else None, ring_size, causal, layout, window, kernel, gathered
    )
    batch, tokens, heads, head_dim = query.shape
    key_heads = key.shape[2]
    half = tokens // 2
    padded = kernel.padded(half)

    def grouped(array: jax.Array) -> jax.Array:
        """(batch, tokens, heads, head_dim) -> (batch, key_heads, group * padded tokens, head_dim)."""
        array = array.reshape(
            batch, 2, half, key_heads, array.shape[2] // key_heads, head_dim
        ).transpose(0, 3, 4, 1, 2, 5)
        array = jnp.pad(array, [(0, 0)] * 4 + [(0, padded - half), (0, 0)])
        return array.reshape(batch, key_heads, -1, head_dim)

    if length is not None:
        length = jnp.asarray(length, jnp.int32)
    if segment_ids is not None:
        segment_ids = signed(segment_ids).reshape(batch, 2, half)
        segment_ids = jnp.pad(
            segment_ids, [(0, 0), (0, 0), (0, padded - half)], mode="edge"
        ).reshape(batch, -1)
    output = _attention(
        setting, half, grouped(query), grouped(key), grouped(value), segment_ids, length
    )
    output = output.reshape(batch, key_heads, heads // key_heads, 2, padded, head_dim)[
        ..., :half, :
    ]
    return output.transpose(0, 3, 4, 1, 2, 5).reshape(query.shape)


def _axis_size(axis: str | None) -> int:
    """Returns the number of devices of the ring; ValueError outside of a `jax.shard_map` over it."""
    try:
        return 1 if axis is None else lax.axis_size(axis)
    except NameError:
        raise ValueError(
            f"axis={axis!r} is no axis of a jax.shard_map around this call; "
            "on whole arrays call ring_attention, on one device axis=None"
        ) from None


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(setting: Setting, half: int, query, key, value, segment, length) -> jax.Array:
    return _attention_forward(setting, half, query, key, value, segment, length)[0]


def _attention_forward(setting: Setting, half: int, query, key, value, segment, length):
    def forward(query, key, value, segment):
        key = marked(key, value)
        output, lse = _forward(setting, half, query, key, value, segment, length)
        return output.astype(query.dtype), lse

    output, lse = _over_rows(setting, forward, (query, key, value), segment)
    return output, (query, key, value, segment, length, output, lse)


def _attention_backward(setting: Setting, half: int, saved, cotangent):
    query, key, value, segment, length, output, lse = saved

    def backward(query, key, value, output, lse, cotangent, segment):
        delta = jnp.einsum("...d,...d->...", output, cotangent, preferred_element_type=jnp.float32)
        key = marked(key, value)
        lse = jnp.where(finite(query, cotangent), lse, jnp.nan)  # it is NaN already if an output is
        gradients = _backward(
            setting, half, query, key, value, segment, length, cotangent, lse, delta
        )
        return [
            gradient.astype(like.dtype)
            for gradient, like in zip(gradients, (query, key, value), strict=True)
        ]

    return (
        *_over_rows(setting, backward, (query, key, value, output, lse, cotangent), segment),
        None,
        None,
    )


_attention.defvjp(_attention_forward, _attention_backward)


def _over_rows(
    setting: Setting, function: Callable, arrays: tuple[Array, ...], segment: Array | None
) -> Any:
    """Applies `function(*arrays, segment)` to arrays (batch, key_heads, ...), at once or row after
    row as the kernel wishes.
    """
    batch, heads, tokens = arrays[1].shape[:3]
    if not setting.kernel.one_row(tokens):
        return function(*arrays, segment)
    rows = [array.reshape(batch * heads, 1, 1, *array.shape[2:]) for array in arrays]
    segments = None if segment is None else jnp.repeat(segment, heads, axis=0)[:, None]
    out = lax.map(lambda row: function(*row[0], row[1]), (rows, segments))
    return jax.tree.map(lambda array: array.reshape(batch, heads, *array.shape[3:]), out)


class Block(NamedTuple):
    """What travels: keys and values (batch, key_heads, tokens, head_dim) and the keys' segments
    (batch, tokens).
    """

    key: jax.Array
    value: jax.Array
    segment: jax.Array | None


class Place(NamedTuple):
    """Where a device stands on the ring, and what its queries see."""

    index: jax.Array | int
    queries: Queries
    tokens: int
    half: int


def _place(setting: Setting, half: int, query, key, segment, length) -> tuple[Place, jax.Array]:
    """This device's place, and its queries.

    The barrier ties the positions to the queries: otherwise partial evaluation of a scan over
    layers, for which positions are known, would compute the masks of all ring steps ahead and store
    them.
    """
    index, query = lax.optimization_barrier(
        (jnp.int32(0) if setting.axis is None else lax.axis_index(setting.axis), query)
    )
    tokens = key.shape[2]
    group = query.shape[2] // tokens
    at = _positions(setting, index, tokens, half)
    queries = queries_at(at, segment, causal=setting.causal, window=setting.window, length=length)
    return Place(
        index, jax.tree.map(lambda array: jnp.tile(array, group), queries), tokens, half
    ), query


def _positions(setting: Setting, index, tokens: int, half: int) -> jax.Array:
    """Natural positions of the tokens of device `index`, the kernel's own padding being nowhere."""
    at = shard_positions(index, 2 * half, setting.ring_size, setting.layout).reshape(2, half)
    return jnp.pad(at, [(0, 0), (0, tokens // 2 - half)], constant_values=NOWHERE).reshape(tokens)


def _keys(setting: Setting, place: Place, step, segment) -> Keys:
    """Positions and segments of the block that this device holds at a step of the ring."""
    if setting.gathered:
        sources, _ = lax.optimization_barrier(
            (jnp.arange(setting.ring_size), place.index)
        )  # for the reason of `_place`
        at = jax.vmap(lambda source: _positions(setting, source, place.tokens, place.half))(
            sources
        ).reshape(-1)
        return Keys(at, segment)
    source = (place.index - step) % setting.ring_size
    return Keys(_positions(setting, source, place.tokens, place.half), segment)


def _rotate(setting: Setting, tree):
    """Sends a pytree to the next device of the ring."""
    ring = [(i, (i + 1) % setting.ring_size) for i in range(setting.ring_size)]
    return jax.tree.map(lambda array: lax.ppermute(array, setting.axis, ring), tree)


def _gather(setting: Setting, block: Block) -> Block:
    def gather(array, axis):
        return lax.all_gather(array, setting.axis, axis=axis, tiled=True)

    segment = None if block.segment is None else gather(block.segment, 1)
    return Block(gather(block.key, 2), gather(block.value, 2), segment)


def _forward(
    setting: Setting, half: int, query, key, value, segment, length
) -> tuple[jax.Array, jax.Array]:
    """Output and log-sum-exp in float32."""
    place, query = _place(setting, half, query, key, segment, length)
    block = Block(key, value, segment)

    def attend(step, block, running):
        keys = _keys(setting, place, step, block.segment)
        return setting.kernel.forward(query, block.key, block.value, place.queries, keys, running)

    start = Running.start(query)
    if setting.axis is None:
        return attend(0, block, start).finish()
    if setting.gathered:
        return attend(0, _gather(setting, block), start).finish()

    def ring_step(carry, step):
        block, running = carry
        arriving = _rotate(setting, block)
        return (arriving, attend(step, block, running)), None

    last = setting.ring_size - 1
    (block, running), _ = lax.scan(ring_step, (block, start), jnp.arange(last))
    return attend(last, block, running).finish()


def _backward(
    setting: Setting, half: int, query, key, value, segment, length, cotangent, lse, delta
):
    """Gradients of query, key and value in float32."""
    place, query = _place(setting, half, query, key, segment, length)
    block = Block(key, value, segment)
    lse = jnp.where(lse == -jnp.inf, jnp.inf, lse)

    def differentiate(step, block, dquery):
        keys = _keys(setting, place, step, block.segment)
        return setting.kernel.backward(
            query, block.key, block.value, place.queries, keys, cotangent, lse, delta, dquery
        )

    start = jnp.zeros(query.mT.shape, jnp.float32)
    if setting.axis is None:
        dquery, *rest = differentiate(0, block, start)
        return dquery.mT, *rest
    if setting.gathered:
        dquery, *rest = differentiate(0, _gather(setting, block), start)
        return dquery.mT, *(
            lax.psum_scatter(array, setting.axis, scatter_dimension=2, tiled=True) for array in rest
        )

    def ring_step(carry, step):
        block, dquery, dblock = carry
        arriving, (dkey, dvalue) = _rotate(setting, block), _rotate(setting, dblock)
        dquery, more_key, more_value = differentiate(step, block, dquery)
        return (arriving, dquery, (dkey + more_key, dvalue + more_value)), None

    zero = jnp.zeros(key.shape, jnp.float32)
    last = setting.ring_size - 1
    (block, dquery, dblock), _ = lax.scan(ring_step, (block, start, (zero, zero)), jnp.arange(last))
    dkey, dvalue = _rotate(setting, dblock)
    dquery, more_key, more_value = differentiate(last, block, dquery)
    return dquery.mT, *_rotate(setting, (dkey + more_key, dvalue + more_value))
