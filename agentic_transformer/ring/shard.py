"""Computes one device's part of ring attention, for use inside a `jax.shard_map`."""

from __future__ import annotations

from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import lax

from agentic_transformer.ring.config import RingConfig
from agentic_transformer.ring.kernels import Kernel, Selection, select
from agentic_transformer.ring.layout import check_layout, shard_positions
from agentic_transformer.ring.mesh import check_manual
from agentic_transformer.ring.options import ShardOptions, check_options
from agentic_transformer.ring.padding import (
    attend_before_padding,
    attend_within_lengths,
    clipped,
    signed_ids,
)
from agentic_transformer.ring.pairs import needs_dynamic
from agentic_transformer.ring.precision import resolve_precision
from agentic_transformer.ring.ring import attention_shard
from agentic_transformer.ring.validation import (
    check_attention,
    check_flag,
    check_window,
    shown,
)


def ring_attention_shard(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    axis: str | None = "ring",
    segment_ids: jax.Array | None = None,
    length: jax.Array | int | None = None,
    kernel: Kernel | str | None = None,
    precision: str | None = None,
    **options: Unpack[ShardOptions],
) -> jax.Array:
    """Computes one device's part of `ring_attention`, inside a `jax.shard_map` over `axis`.

    Args:
        query: (batch, tokens, heads, head_dim), this device's tokens, in layout order; tokens even.
        key: (batch, tokens, key_heads, head_dim) of query's dtype, key_heads a divisor of heads.
        value: as key.
        axis: the mesh axis of the ring; None for a single device.
        segment_ids: (batch, tokens) integers; attention only within equal ids.
        length: natural positions from here on are padding; an integer, or (batch,) integers.
        kernel: as in `attention`; None: the fastest for `jax.default_backend()`. Name one if the
            devices are others.
        precision: as in `attention`.
        **options: causal, layout and window, as in `attention`; and all_gather: collect all keys
            and values on every device first, the alternative a ring is compared with.

    Returns:
        (batch, tokens, heads, head_dim) of query's dtype.

    Raises:
        ValueError: as `attention`, and outside of a `jax.shard_map` over `axis`.
    """
    check_options("ring_attention_shard", options, ShardOptions)
    ring_size = _axis_size(axis)
    precision = resolve_precision(precision)
    axis = axis if ring_size > 1 else None
    config = RingConfig(axis, ring_size, None, precision=precision, **options)
    check_layout(config.layout)
    check_flag("all_gather", config.all_gather)
    check_attention(
        query,
        key,
        value,
        segment_ids,
        causal=config.causal,
        window=config.window,
        length=length,
        ring_size=ring_size,
    )
    # Python's own types: programs are cached by the configuration.
    window = check_window(config.window, causal=config.causal)
    config = config._replace(causal=bool(config.causal), window=window)
    if query.shape[1] % 2:
        raise ValueError(
            f"query {query.shape} must have two blocks of tokens, an even number of them"
        )
    for array in (query, key, value):
        sharding = jax.typeof(array).sharding
        if any(sharding.spec):  # of explicit axes alone
            check_manual(sharding)
    platform = jax.default_backend()
    kernel = selection_for(kernel, config, platform, query, segment_ids, length).kernel
    return attend_shard(config._replace(kernel=kernel), query, key, value, segment_ids, length)


def selection_for(
    kernel: Kernel | str | None,
    config: RingConfig,
    platform: str,
    query: jax.Array,
    segment_ids: jax.Array | None,
    length: jax.Array | int | None,
) -> Selection:
    """Returns the kernel that was asked for, or the fastest for a platform and these masks.

    Only the shapes and dtypes of the arrays matter.

    Raises:
        ValueError: see `kernels.select`; or the kernel that was asked for does not support the
            masks.
    """
    # Padding at the end needs no mask of its own under a causal one.
    has_length = length is not None and not config.causal
    window = config.window is not None and config.ring_size == 1
    others = config._replace(window=None) if window else config
    selection = select(
        kernel,
        platform,
        query.dtype,
        query.shape[-1],
        static=not needs_dynamic(others, has_length=has_length),
        segments=segment_ids is not None,
        window=window,
    )
    rows = has_length and jnp.ndim(length) > 0  # lengths of rows become segments
    _check_mask(
        config._replace(kernel=selection.kernel),
        has_segments=segment_ids is not None or rows,
        has_length=has_length and not rows,
    )
    return selection


def attend_shard(
    config: RingConfig,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    length: jax.Array | int | None,
) -> jax.Array:
    """Computes one device's part of attention; arguments as `ring_attention_shard`, checked."""
    segment_ids = None if segment_ids is None else signed_ids(segment_ids)
    if length is not None:
        length = clipped(length, 0, query.shape[1] * config.ring_size)
    query, key, value, segment_ids, length = _vary_alike(
        config, query, key, value, segment_ids, length
    )
    if length is not None and (jnp.ndim(length) or not config.kernel.supports_dynamic):
        device = 0 if config.axis is None else lax.axis_index(config.axis)
        position = shard_positions(device, query.shape[1], config.ring_size, config.layout)
        arrays, attend = (query, key, value), partial(_attend, config, length=None)
        if not config.kernel.supports_dynamic and config.causal:
            # A kernel of static masks: its causal mask hides the padding from all real queries.
            attend = partial(attend, segment_ids=segment_ids)
            return attend_before_padding(attend, arrays, position, length)
        if jnp.ndim(length):
            # Lengths of rows become segments, so the ring gets no length.
            return attend_within_lengths(attend, arrays, segment_ids, position, length)
    return _attend(config, query, key, value, segment_ids, length)


def _vary_alike(config: RingConfig, *arrays: jax.Array | None) -> list[jax.Array | None]:
    """Casts arrays so that the types of all of them vary over the same mesh axes.

    A type states these axes inside of a `jax.shard_map` with check_vma=True. Loops carry the
    arrays, and zeros like them, from step to step, and the type of a carried array must not change.
    """

    def varying(array: jax.Array) -> frozenset[str]:
        return jax.typeof(array).manual_axis_type.varying

    axes = frozenset().union(*(varying(x) for x in arrays if x is not None))
    if config.axis is not None:
        # The mask depends on the device, even if the arrays are equal on all devices.
        axes |= varying(lax.axis_index(config.axis))

    def vary(array: jax.Array | None) -> jax.Array | None:
        if array is None or axes == varying(array):
            return array
        return lax.pcast(array, tuple(axes - varying(array)), to="varying")

    return list(map(vary, arrays))


def _attend(config: RingConfig, query, key, value, segment_ids, length) -> jax.Array:
    """Attends in the axis order of the kernel."""
    arrays, axis = (query, key, value), config.kernel.token_axis
    query, key, value = (jnp.moveaxis(array, 1, axis) for array in arrays)
    return jnp.moveaxis(attention_shard(config, query, key, value, segment_ids, length), axis, 1)


def _check_mask(config: RingConfig, *, has_segments: bool, has_length: bool) -> None:
    """Raises ValueError unless the kernel supports the masks of a ring."""
    if needs_dynamic(config, has_length=has_length) and not config.kernel.supports_dynamic:
        window = "window on a ring" if config.kernel.supports_windows else "window"
        raise ValueError(
            f"kernel={config.kernel} supports causal and full masks only, no {window}, length or "
            "causal all-gather; kernel=None chooses one that does"
        )
    if has_segments and not config.kernel.supports_segments:
        raise ValueError(
            f"kernel={config.kernel} supports no segment_ids and no lengths of rows; "
            "kernel=None chooses one that does"
        )


def _axis_size(axis: str | None) -> int:
    """Returns the ring's number of devices; ValueError outside of a `jax.shard_map` over it."""
    try:
        return 1 if axis is None else lax.axis_size(axis)
    except (NameError, TypeError, ValueError):  # the last two for what cannot be a name
        raise ValueError(
            f"axis={shown(axis)} is no axis of a jax.shard_map around this call; "
            "for whole arrays call ring_attention; for one device give axis=None; inside a "
            "jax.shard_map over other axes call "
            f"jax.shard_map(ring_attention_shard, axis_names={{{shown(axis)}}}, ...)"
        ) from None
