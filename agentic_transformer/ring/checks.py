"""What cannot work, said before it is tried."""

from __future__ import annotations

from difflib import get_close_matches

import jax
from jax.sharding import Mesh

from agentic_transformer.ring.layout import padded_length


def ring_size_of(mesh: Mesh, axis: str) -> int:
    """Number of devices on mesh axis `axis`; ValueError if the mesh has no such axis."""
    if axis not in mesh.shape:
        nearest = get_close_matches(str(axis), mesh.axis_names, n=1, cutoff=0.0)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"axis={axis!r} is not an axis of the mesh, which has {dict(mesh.shape)}{hint}")
    return mesh.shape[axis]


def batch_shards(mesh: Mesh, batch_axis: str | tuple[str, ...] | None) -> int:
    """Number of parts into which `batch_axis` divides a batch."""
    if batch_axis is None:
        return 1
    names = (batch_axis,) if isinstance(batch_axis, str) else batch_axis
    shards = 1
    for name in names:
        shards *= ring_size_of(mesh, name)
    return shards


def check_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    mesh: Mesh | None,
    axis: str,
    batch_axis: str | tuple[str, ...] | None,
    *,
    causal: bool,
    window: int | None,
) -> None:
    """Raises ValueError, naming the sizes and what would fit, where attention cannot be computed."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim != 4:
            raise ValueError(f"{name} has shape {array.shape}; it must be (batch, sequence, heads, head_dim)")
    if key.shape != value.shape:
        raise ValueError(f"key {key.shape} and value {value.shape} must have the same shape")
    batch, sequence, heads, head_dim = query.shape
    if key.shape[:2] != (batch, sequence) or key.shape[3] != head_dim:
        raise ValueError(f"key {key.shape} must have the batch, sequence and head_dim of query {query.shape}")
    if key.shape[2] < 1 or heads % key.shape[2]:
        fits = [count for count in range(1, heads + 1) if heads % count == 0]
        raise ValueError(f"{heads} query heads cannot be grouped over {key.shape[2]} key heads; any of {fits} would fit")
    if segment_ids is not None and segment_ids.shape != (batch, sequence):
        raise ValueError(f"segment_ids has shape {segment_ids.shape}; it must be (batch, sequence) = {(batch, sequence)}")
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window={window} needs causal=True and at least 1 key; causal={causal}")
    check_shards(batch, sequence, mesh, axis, batch_axis)


def check_shards(batch: int, sequence: int, mesh: Mesh | None, axis: str, batch_axis: str | tuple[str, ...] | None) -> None:
    """Raises ValueError unless the sequence divides into two blocks a device, and the batch over its axis."""
    ring_size = 1 if mesh is None else ring_size_of(mesh, axis)
    if sequence % (2 * ring_size) or not sequence:
        raise ValueError(
            f"sequence of {sequence} does not divide into two blocks for each of {ring_size} devices: it must be a multiple of "
            f"{2 * ring_size}; to_layout pads it to {padded_length(sequence, ring_size)}"
        )
    if mesh is None:
        return
    shards = batch_shards(mesh, batch_axis)
    if batch % shards:
        fits = -(-batch // shards) * shards
        raise ValueError(f"batch of {batch} does not divide over batch_axis={batch_axis!r} of size {shards}; {fits} would fit")
    names = (batch_axis,) if isinstance(batch_axis, str) else batch_axis or ()
    if axis in names:
        raise ValueError(f"axis={axis!r} cannot shard both the sequence and the batch (batch_axis={batch_axis!r})")
