"""Checks the arguments of attention, chooses a kernel, jits, and maps over the devices.

All backbones share the signature of `attention`.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Unpack

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from agentic_transformer.ring import baselines
from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.kernels import Kernel, Selection
from agentic_transformer.ring.layout import check_layout
from agentic_transformer.ring.mesh import (
    check_devices,
    map_over_devices,
    map_without_mesh,
    platform_of,
)
from agentic_transformer.ring.options import (
    DenseOptions,
    KernelOptions,
    MeshOptions,
    check_options,
)
from agentic_transformer.ring.precision import resolve_precision
from agentic_transformer.ring.shard import attend_shard, selection_for
from agentic_transformer.ring.validation import (
    check_attention,
    check_flag,
    check_mesh,
    check_one_of,
    check_sequence,
    check_shards,
    check_whole,
    check_window,
    ring_size_of,
    shown,
)

_FUNCTIONS = {
    "ring": attend_shard,
    "dense": baselines.dense,
    "memory_efficient": baselines.memory_efficient,
    "blockwise": baselines.blockwise,
    "all_gather": attend_shard,  # its configuration says that it gathers
}
"""Functions `(config, query, key, value, segment_ids, length) -> output` of the backbones."""

BACKBONES = tuple(_FUNCTIONS)

SHARED = ("ring", "all_gather")
"""Backbones that share a sequence among the ring's devices."""

_WITHOUT_KERNEL = ("dense", "memory_efficient")


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
    kernel: Kernel | str | None = None,
    precision: str | None = None,
) -> jax.Array:
    """Computes exact attention by any of `BACKBONES`.

    "ring" and "all_gather" share the work among the ring's devices. "dense", "memory_efficient" and
    "blockwise" share none: on a mesh, every device of the ring computes the whole sequence. Without
    a mesh all five run on one device.

    The function can be differentiated in reverse mode, inside or outside `jax.jit`. All arrays are
    in layout order (see `to_layout`); positions count in natural order.

    Tokens that a query does not see (padding, later tokens, other segments, tokens outside of the
    window) change no bit of its output or of its gradient, even if they hold NaN. A key or value
    that is not finite makes the output of every query that sees it NaN. A query that holds NaN
    makes its own output NaN. The gradients of "dense" and "memory_efficient" are JAX's own: they
    are independent of padding, but not of other unseen tokens that hold NaN.

    Python numbers and the values of numpy arrays are checked. Values of JAX arrays may be traced
    and are not checked: a length outside 0..sequence is clipped to this range.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring size`; bfloat16,
            float16, float32 or float64.
        key: (batch, sequence, key_heads, head_dim) of query's dtype, key_heads a divisor of heads.
        value: as key.
        backbone: one of `BACKBONES`.
        mesh: the devices; any number of them on `axis`. Its axes may be automatic or explicit
            (`jax.sharding.AxisType`), and it may be abstract where `jax.set_mesh` or the arrays
            say which devices are meant. Along axes that are named neither in `axis` nor in
            `batch_axis`, each device computes the same. None: one device.
        axis: the mesh axis over which the sequence is sharded.
        batch_axis: the mesh axis, or axes, over which the batch is sharded.
        causal: whether a query sees only keys up to its own position.
        layout: "zigzag" or "contiguous", the order of the sequence.
        segment_ids: (batch, sequence) integers of 32 bits; attention only within equal ids.
        window: query i sees keys j with `0 <= i - j < window`; causal only.
        length: tokens at natural positions from here on are padding, never attended to; their
            outputs and gradients are 0. An integer, or (batch,) integers, one for each row.
        kernel: the `Kernel` that computes attention to one block of keys at a time, or its name
            (one of `kernels.NAMES`). None or "auto": the fastest for the platform. The platform is
            that of `mesh` if `mesh` is a `Mesh`, else `jax.default_backend()`; for other devices,
            name a kernel.
        precision: of float32 matrix products, "highest" or "default" (`ring/precision.py`); None:
            that of `jax.default_matmul_precision` if one is set, else "highest".

    Returns:
        (batch, sequence, heads, head_dim) of query's dtype, accumulated in float32. A query that
        sees nothing gives 0.

    Raises:
        ValueError: for shapes, dtypes and settings other than these, sizes that do not divide,
            heads that do not group, an axis that the mesh lacks, arrays that lie on other devices,
            or masks that the kernel does not support.
    """
    check_one_of("backbone", backbone, BACKBONES)
    check_layout(layout)
    check_attention(query, key, value, segment_ids, causal=causal, window=window, length=length)
    window = check_window(window, causal=causal)  # a Python integer: in the key of `_compiled`
    check_shards(*query.shape[:2], mesh, axis, batch_axis)
    check_devices(mesh, query=query, key=key, value=value, segment_ids=segment_ids, length=length)
    config = _ring_config(backbone, mesh, axis, causal, layout, window)
    selection = _select(backbone, config, mesh, query, segment_ids, length, kernel)
    kernel = selection and selection.kernel
    if kernel is not None and any(isinstance(x, jax.core.Tracer) for x in (query, key, value)):
        kernel = kernel.for_call()
    config = config._replace(kernel=kernel, precision=resolve_precision(precision))
    compiled = _compiled(backbone, config, mesh, axis, batch_axis)
    return compiled(query, key, value, segment_ids, length)


def select_kernel(
    query: jax.Array | jax.ShapeDtypeStruct,
    *,
    backbone: str = "ring",
    mesh: Mesh | AbstractMesh | None = None,
    axis: str = "ring",
    causal: bool = True,
    segment_ids: jax.Array | jax.ShapeDtypeStruct | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
    kernel: Kernel | str | None = None,
) -> Selection | None:
    """Returns the kernel that `attention` uses with these arguments, and why; computes nothing.

    Args:
        query: as in `attention`, or its shape and type.
        backbone: this and all further arguments as in `attention`.
        mesh: the devices.
        axis: the mesh axis of the sequence.
        causal: whether a query sees only keys up to its own position.
        segment_ids: the ids, or their shape and type.
        window: number of keys that a query sees.
        length: position from which on tokens are padding.
        kernel: a kernel, its name, or None.

    Returns:
        The kernel and a sentence; None for a backbone that uses none.

    Raises:
        ValueError: there is no such backbone or kernel, or the kernel cannot compute this.
    """
    check_one_of("backbone", backbone, BACKBONES)
    if not isinstance(query, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        raise ValueError(f"query is {shown(query)}; it must be an array or a jax.ShapeDtypeStruct")
    if mesh is not None:
        check_mesh(mesh)
    check_flag("causal", causal)
    window = check_window(window, causal=causal)
    config = _ring_config(backbone, mesh, axis, causal, "zigzag", window)
    return _select(backbone, config, mesh, query, segment_ids, length, kernel)


def ring_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mesh: Mesh | AbstractMesh,
    **options: Unpack[MeshOptions],
) -> jax.Array:
    """Computes exact attention over a sequence sharded on a ring of devices (arXiv 2310.01889).

    Args:
        query: (batch, sequence, heads, head_dim).
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        mesh: the devices.
        **options: further arguments of `attention`, all but `backbone`.

    Returns:
        (batch, sequence, heads, head_dim).

    Raises:
        ValueError: as `attention`, or `mesh` is None.
    """
    if mesh is None:
        raise ValueError(
            "ring_attention needs a mesh (that of jax.set_mesh is "
            "jax.sharding.get_abstract_mesh()); without one use blockwise_attention"
        )
    check_options("ring_attention", options, MeshOptions)
    return attention(query, key, value, backbone="ring", mesh=mesh, **options)


def blockwise_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, **options: Unpack[KernelOptions]
) -> jax.Array:
    """Computes exact attention on one device, block by block (BPT, arXiv 2305.19370).

    Memory is linear in the sequence. Arrays are in natural order, with an even number of tokens.

    Args:
        query: (batch, sequence, heads, head_dim).
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        **options: further arguments of `attention`: causal, segment_ids, window, length, kernel
            and precision.

    Returns:
        (batch, sequence, heads, head_dim).

    Raises:
        ValueError: as `attention`.
    """
    check_options("blockwise_attention", options, KernelOptions)
    return attention(query, key, value, backbone="blockwise", layout="contiguous", **options)


def dense_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, **options: Unpack[DenseOptions]
) -> jax.Array:
    """Computes attention by the whole matrix of scores, in memory quadratic in the sequence.

    Scores and sums are float32, or of query's dtype if that is wider.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring_size`, so even.
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        **options: causal, segment_ids, window, length and precision, as in `attention`; layout
            ("contiguous" by default) and ring_size, that of the layout only.

    Returns:
        (batch, sequence, heads, head_dim).

    Raises:
        ValueError: as `attention`.
    """
    check_options("dense_attention", options, DenseOptions)
    return _attend_alone("dense", query, key, value, **options)


def memory_efficient_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, **options: Unpack[DenseOptions]
) -> jax.Array:
    """Computes attention by chunks with a running softmax, rematerialised in the backward pass.

    Rabe and Staats 2021, "Self-attention does not need O(n^2) memory" (arXiv 2112.05682): every
    pair of chunks is computed and masked.

    Args:
        query: (batch, sequence, heads, head_dim); sequence a multiple of `2 * ring_size`, so even.
        key: (batch, sequence, key_heads, head_dim).
        value: as key.
        **options: as in `dense_attention`.

    Returns:
        (batch, sequence, heads, head_dim).

    Raises:
        ValueError: as `attention`.
    """
    check_options("memory_efficient_attention", options, DenseOptions)
    return _attend_alone("memory_efficient", query, key, value, **options)


def _attend_alone(
    backbone: str,
    query,
    key,
    value,
    *,
    causal: bool = True,
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    length: jax.Array | int | None = None,
    layout: str = "contiguous",
    ring_size: int = 1,
    precision: str | None = None,
) -> jax.Array:
    """Computes a backbone that needs no kernel, without a mesh, in the layout of a ring."""
    check_layout(layout)
    check_attention(query, key, value, segment_ids, causal=causal, window=window, length=length)
    # Python integers: in the key of `_compiled`.
    window, ring_size = check_window(window, causal=causal), check_whole("ring_size", ring_size)
    check_sequence(query.shape[1], ring_size)
    precision = resolve_precision(precision)
    config = RingConfig(None, ring_size, None, bool(causal), layout, window, precision=precision)
    compiled = _compiled(backbone, config, mesh=None, axis=None, batch_axis=None)
    return compiled(query, key, value, segment_ids, length)


def _ring_config(backbone, mesh, axis, causal, layout, window) -> RingConfig:
    """Returns the static configuration of a backbone on a mesh, before a kernel is chosen."""
    ring_size = 1 if mesh is None else ring_size_of(mesh, axis)
    axis_name = axis if ring_size > 1 else None
    gathers = backbone == "all_gather"
    return RingConfig(axis_name, ring_size, None, bool(causal), layout, window, gathers)


def _select(
    backbone, config: RingConfig, mesh, query, segment_ids, length, kernel
) -> Selection | None:
    """Returns the kernel of a backbone; None for one that uses none."""
    if backbone in _WITHOUT_KERNEL:
        return None
    if backbone == "blockwise":  # each device has whole sequences
        config = config._replace(axis=None, ring_size=1)
    return selection_for(kernel, config, platform_of(mesh), query, segment_ids, length)


@lru_cache(maxsize=256)
def _compiled(backbone, config: RingConfig, mesh, axis, batch_axis):
    """Returns a jitted backbone: `(query, key, value, segment_ids, length) -> output`."""
    function = partial(_FUNCTIONS[backbone], config)

    def attend(*arrays: jax.Array | None) -> jax.Array:
        with jax.default_matmul_precision(config.precision):
            return function(*arrays)

    if mesh is None:
        return jax.jit(map_without_mesh(attend))
    tokens = PartitionSpec(batch_axis, axis if backbone in SHARED else None)

    def attend_on_mesh(query, key, value, segment_ids, length):
        # JAX's debugging modes call this with the arguments as they came: a length may be a number.
        has_row_lengths = length is not None and np.ndim(length)
        rows = PartitionSpec(batch_axis) if has_row_lengths else PartitionSpec()
        mapped = map_over_devices(attend, mesh, (tokens, tokens, tokens, tokens, rows), tokens)
        return mapped(query, key, value, segment_ids, length)

    return jax.jit(attend_on_mesh)
