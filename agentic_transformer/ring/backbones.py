"""Attention of globally sharded arrays: the ring, and the backbones it is compared with, under one signature."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache, partial

import jax
from jax.sharding import Mesh, PartitionSpec

from agentic_transformer.ring.checks import check_attention, ring_size_of
from agentic_transformer.ring.kernel import BlockKernel
from agentic_transformer.ring.layout import check_layout, from_layout, to_layout
from agentic_transformer.ring.plain import plain_kernel
from agentic_transformer.ring.reference import dense_attention, memory_efficient_attention
from agentic_transformer.ring.ring import ring_attention_shard

BACKBONES = ("ring", "dense", "memory_efficient", "blockwise", "all_gather")


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    backbone: str = "ring",
    mesh: Mesh | None = None,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    causal: bool = True,
    layout: str = "zigzag",
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
    kernel: BlockKernel | None = None,
) -> jax.Array:
    """Exact attention by any of `BACKBONES`; the arguments are those of `ring_attention`.

    "ring" and "all_gather" share the work among the ring's devices. "dense", "memory_efficient" and "blockwise" are what
    one device can do alone: on a mesh with a ring every device of it does the whole of them. Without a mesh all five run
    on one device.
    """
    if backbone not in BACKBONES:
        nearest = get_close_matches(str(backbone), BACKBONES, n=1, cutoff=0.0)[0]
        raise ValueError(f"backbone={backbone!r} is not one of {BACKBONES}; did you mean {nearest!r}?")
    check_layout(layout)
    check_attention(query, key, value, segment_ids, mesh, axis, batch_axis, causal=causal, window=window)
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    apply = _compiled(backbone, mesh, axis, batch_axis, causal, layout, window, kernel or _default_kernel(platform))
    return apply(query, key, value, segment_ids, length)


def ring_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mesh: Mesh,
    axis: str = "ring",
    batch_axis: str | tuple[str, ...] | None = None,
    causal: bool = True,
    layout: str = "zigzag",
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
    kernel: BlockKernel | None = None,
) -> jax.Array:
    """Exact attention over a sequence sharded on a ring of devices (arXiv 2310.01889).

    Differentiable, inside or outside `jax.jit`. All arrays are in layout order (`to_layout`), positions those of the natural
    order.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring size`.
        key: (batch, sequence, key_heads, head_dim), key_heads a divisor of heads.
        value: as key.
        mesh: the devices; any number of them on `axis`.
        axis: the mesh axis over which the sequence is sharded.
        batch_axis: the mesh axis, or axes, over which the batch is sharded.
        causal: whether a query sees only keys up to its own position.
        layout: "zigzag" or "contiguous", the order of the sequence.
        segment_ids: (batch, sequence) integers; attention only within equal ids.
        window: query i sees keys j with `0 <= i - j < window`; causal only.
        length: tokens at natural positions from here on are padding, never attended to; their outputs are 0.
        kernel: the attention within a pair of blocks; plain JAX if None.

    Returns:
        (batch, sequence, heads, head_dim) of query's dtype, accumulated in float32. A query that sees nothing gives 0.

    Raises:
        ValueError: for sizes that do not divide, heads that do not group or an axis that the mesh lacks.
    """
    if mesh is None:
        raise ValueError("ring_attention needs a mesh; without one use blockwise_attention")
    return attention(
        query,
        key,
        value,
        backbone="ring",
        mesh=mesh,
        axis=axis,
        batch_axis=batch_axis,
        causal=causal,
        layout=layout,
        segment_ids=segment_ids,
        window=window,
        length=length,
        kernel=kernel,
    )


def blockwise_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool = True,
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
    kernel: BlockKernel | None = None,
) -> jax.Array:
    """Exact attention on one device, block by block, in memory linear in the sequence (BPT, arXiv 2305.19370).

    The arguments are those of `ring_attention`, in natural order; the sequence is even.
    """
    return attention(
        query,
        key,
        value,
        backbone="blockwise",
        causal=causal,
        layout="contiguous",
        segment_ids=segment_ids,
        window=window,
        length=length,
        kernel=kernel,
    )


@lru_cache
def _default_kernel(platform: str) -> BlockKernel:
    """One kernel object a platform, so that what is compiled with it is found again."""
    return plain_kernel(platform)


@lru_cache(maxsize=256)
def _compiled(backbone, mesh, axis, batch_axis, causal, layout, window, kernel):
    """The jitted attention of one setting: `(query, key, value, segment_ids, length) -> output`."""
    ring_size = 1 if mesh is None else ring_size_of(mesh, axis)
    setting = {"causal": causal, "window": window, "layout": layout}
    shared = backbone in ("ring", "all_gather")
    if backbone == "dense":
        function = partial(dense_attention, ring_size=ring_size, **setting)
    elif backbone == "memory_efficient":
        function = partial(memory_efficient_attention, ring_size=ring_size, **setting)
    elif backbone == "blockwise":
        function = partial(_blockwise, ring_size, layout, partial(ring_attention_shard, axis=None, kernel=kernel, **setting))
    else:
        alone = mesh is None
        gathered = backbone == "all_gather"
        function = partial(ring_attention_shard, axis=None if alone else axis, kernel=kernel, gathered=gathered, **setting)

    def apply(query, key, value, segment_ids, length):
        return function(query, key, value, segment_ids=segment_ids, length=length)

    if mesh is None:
        return jax.jit(apply)
    tokens = PartitionSpec(batch_axis, axis if shared else None)
    # Replication is not tracked: the loops of the ring carry device-dependent values next to constants.
    return jax.jit(
        jax.shard_map(
            apply, mesh=mesh, in_specs=(tokens, tokens, tokens, tokens, PartitionSpec()), out_specs=tokens, check_vma=False
        )
    )


def _blockwise(ring_size, layout, function, query, key, value, *, segment_ids, length):
    """One device's blockwise attention to a whole sequence that is in the layout order of a ring."""
    arrays = [None if x is None else from_layout(x, ring_size, layout) for x in (query, key, value, segment_ids)]
    output = function(*arrays[:3], segment_ids=arrays[3], length=length)
    return to_layout(output, ring_size, layout)
