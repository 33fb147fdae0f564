"""Attention of globally sharded arrays: the ring, and the backbones it is compared with, under one
signature.
"""

from __future__ import annotations

from functools import lru_cache, partial

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from agentic_transformer.ring.checks import (
    check_attention,
    check_kernel,
    check_one_of,
    check_shards,
    check_window,
    ring_size_of,
)
from agentic_transformer.ring.kernel import BlockKernel
from agentic_transformer.ring.layout import check_layout, from_layout, to_layout
from agentic_transformer.ring.placement import check_devices, on_mesh, without_mesh
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
    mesh: Mesh | AbstractMesh | None = None,
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

    "ring" and "all_gather" share the work among the ring's devices. "dense", "memory_efficient" and
    "blockwise" are what one device can do alone: on a mesh with a ring every device of it does the
    whole of them. Without a mesh all five run on one device.
    """
    check_one_of("backbone", backbone, BACKBONES)
    check_layout(layout)
    check_kernel(kernel)
    check_attention(query, key, value, segment_ids, causal=causal, window=window, length=length)
    window = check_window(window, causal=causal)  # compiled functions are kept by it
    check_shards(*query.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, query=query, key=key, value=value, segment_ids=segment_ids, length=length)
    platform = mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend()
    apply = _compiled(
        backbone,
        mesh,
        axis,
        batch_axis,
        causal,
        layout,
        window,
        kernel or _default_kernel(platform),
    )
    return apply(query, key, value, segment_ids, length)


def ring_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mesh: Mesh | AbstractMesh,
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

    Differentiable, inside or outside `jax.jit`. All arrays are in layout order (`to_layout`),
    positions those of the natural order.

    What a query does not see does not reach it, whatever it holds: padding, later tokens, other
    segments and tokens outside of the window, NaN among them, change no bit of its output or of its
    gradient. A token that is not finite makes NaN of the outputs that see it. The gradients of
    "dense" and "memory_efficient" (see `attention`), which are JAX's own, keep this of padding
    only.

    Values of Python numbers and numpy arrays are checked. Those of JAX arrays are not, for they may
    be traced: a length outside 0..sequence then acts as the nearest of these.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring size`; bfloat16,
            float16, float32 or float64.
        key: (batch, sequence, key_heads, head_dim) of query's dtype, key_heads a divisor of heads.
        value: as key.
        mesh: the devices; any number of them on `axis`. Its axes may be automatic or explicit
            (`jax.sharding.AxisType`), and it may be abstract where `jax.set_mesh` or the arrays
            say which devices are meant. Along axes that are named neither in `axis` nor in
            `batch_axis`, each device computes the same.
        axis: the mesh axis over which the sequence is sharded.
        batch_axis: the mesh axis, or axes, over which the batch is sharded.
        causal: whether a query sees only keys up to its own position.
        layout: "zigzag" or "contiguous", the order of the sequence.
        segment_ids: (batch, sequence) integers of 32 bits; attention only within equal ids.
        window: query i sees keys j with `0 <= i - j < window`; causal only.
        length: tokens at natural positions from here on are padding, never attended to; their
            outputs and gradients are 0. An integer, or (batch,) integers, one for each row.
        kernel: the attention within a pair of blocks; plain JAX if None.

    Returns:
        (batch, sequence, heads, head_dim) of query's dtype, accumulated in float32. A query that
        sees nothing gives 0.

    Raises:
        ValueError: for shapes, dtypes and settings other than these, sizes that do not divide,
            heads that do not group, an axis that the mesh lacks or arrays that lie on other
            devices.
    """
    if mesh is None:
        raise ValueError(
            "ring_attention needs a mesh (that of jax.set_mesh is jax.sharding.get_abstract_mesh()); "
            "without one use blockwise_attention"
        )
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
    """Exact attention on one device, block by block, in memory linear in the sequence (BPT, arXiv
    2305.19370).

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
        function = partial(
            _blockwise,
            ring_size,
            layout,
            partial(ring_attention_shard, axis=None, kernel=kernel, **setting),
        )
    else:
        alone = mesh is None
        gathered = backbone == "all_gather"
        function = partial(
            ring_attention_shard,
            axis=None if alone else axis,
            kernel=kernel,
            gathered=gathered,
            **setting,
        )

    def apply(query, key, value, segment_ids, length):
        return function(query, key, value, segment_ids=segment_ids, length=length)

    if mesh is None:
        return jax.jit(without_mesh(apply))
    tokens = PartitionSpec(batch_axis, axis if shared else None)

    def over_devices(query, key, value, segment_ids, length):
        of_rows = length is not None and length.ndim
        rows = PartitionSpec(batch_axis) if of_rows else PartitionSpec()
        mapped = on_mesh(apply, mesh, (tokens, tokens, tokens, tokens, rows), tokens)
        return mapped(query, key, value, segment_ids, length)

    return jax.jit(over_devices)


def _blockwise(ring_size, layout, function, query, key, value, *, segment_ids, length):
    """One device's blockwise attention to a whole sequence that is in the layout order of a ring."""
    arrays = [
        None if x is None else from_layout(x, ring_size, layout)
        for x in (query, key, value, segment_ids)
    ]
    output = function(*arrays[:3], segment_ids=arrays[3], length=length)
    return to_layout(output, ring_size, layout)
