"""Checks arguments; each function raises one ValueError that says what is allowed.

Settings, shapes and dtypes are checked, and the values of Python numbers and numpy arrays. Values
of JAX arrays are not: they may be traced, and reading them would wait for the device.
"""

from __future__ import annotations

import operator
from difflib import get_close_matches
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, get_abstract_mesh

FLOATS = ("bfloat16", "float16", "float32", "float64")


def check_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises ValueError, with the nearest match, unless a name is one of those allowed."""
    if value not in allowed:
        nearest = get_close_matches(str(value), allowed, n=1, cutoff=0.0)[0]
        raise ValueError(f"{name}={value!r} is not one of {allowed}; did you mean {nearest!r}?")


def check_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Returns a whole number that is static (known at trace time); ValueError if it is none."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name}={shown(value)} must be a whole number")
    if number < least or (most is not None and number > most):
        fault = f"less than {least}" if most is None else f"outside {least}..{most}"
        raise ValueError(f"{name}={number} is {fault}")
    return number


def check_flag(name: str, value: Any) -> None:
    """Raises ValueError unless the value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={shown(value)} must be True or False")


def check_floats(axes: tuple[str, ...], **arrays: Any) -> None:
    """Raises ValueError unless arrays have these axes, none of them empty, and a float dtype."""
    for name, array in arrays.items():
        if not isinstance(array, jax.Array | np.ndarray):
            raise ValueError(f"{name} is {shown(array)}; it must be a numpy or JAX array")
        if array.ndim != len(axes) or 0 in array.shape:
            words = f"({', '.join(axes)}), each at least 1"
            raise ValueError(f"{name} has shape {array.shape}; it must be {words}")
        if array.dtype.name not in FLOATS or not array.dtype.isnative:
            raise ValueError(f"{name} is {array.dtype}; it must be one of {', '.join(FLOATS)}")


def check_same_dtype(**arrays: jax.Array) -> None:
    """Raises ValueError unless JAX takes the arrays for arrays of one dtype."""
    if len({jax.dtypes.canonicalize_dtype(array.dtype) for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise ValueError(f"{found} must have one dtype; convert them with astype")


def check_integers(
    name: str,
    array: Any,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    least: int = -(2**31) + 1,
    most: int = 2**31 - 1,
) -> None:
    """Raises ValueError unless these are integers of a shape, and numpy values are in range."""
    if not isinstance(array, jax.Array | np.ndarray) or array.shape != shape:
        raise ValueError(
            f"{name} is {shown(array)}; it must be an integer array ({', '.join(axes)}) = {shape}"
        )
    if array.dtype.kind not in "iu" or not array.dtype.isnative:
        raise ValueError(f"{name} is {array.dtype}; it must be an integer array, such as int32")
    if isinstance(array, np.ndarray) and not least <= array.min() <= array.max() <= most:
        found = f"{array.min()}..{array.max()}"
        raise ValueError(f"{name} has values in {found}; they must be in {least}..{most}")


def check_length(length: Any, batch: int, sequence: int) -> None:
    """Raises ValueError unless a length, or the length of each row, lies within the sequence."""
    if isinstance(length, jax.Array) and not length.ndim:
        check_integers("length", length, (), ())
    elif isinstance(length, jax.Array | np.ndarray) and length.ndim:
        check_integers("length", length, ("batch",), (batch,), 0, sequence)
    elif length is not None:
        check_whole("length", length, 0, sequence)


def check_window(window: Any, *, causal: bool) -> int | None:
    """Returns the window as a Python integer; ValueError if it is less than 1 or not causal."""
    if window is None:
        return None
    window = check_whole("window", window)
    if not causal:
        raise ValueError(f"window={window} needs causal=True; causal={causal}")
    return window


def check_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    causal: bool,
    window: int | None,
    length: jax.Array | int | None,
    ring_size: int = 1,
) -> None:
    """Raises ValueError where attention cannot be computed.

    Args:
        query: (batch, tokens, heads, head_dim).
        key: (batch, tokens, key_heads, head_dim).
        value: as key.
        segment_ids: (batch, tokens).
        causal: a flag.
        window: a number of keys.
        length: of the sequence, or (batch,) of each row.
        ring_size: number of such arrays that make up a sequence.
    """
    check_heads(query, key, value)
    check_same_dtype(query=query, key=key, value=value)
    batch, tokens = query.shape[:2]
    if key.shape[1] != tokens:
        raise ValueError(
            f"key {key.shape} must have the batch, sequence and head_dim of query {query.shape}"
        )
    if segment_ids is not None:
        check_integers("segment_ids", segment_ids, ("batch", "sequence"), (batch, tokens))
    check_flag("causal", causal)
    check_window(window, causal=causal)
    check_length(length, batch, tokens * ring_size)


def check_heads(query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    """Raises ValueError unless queries can attend to keys, whatever the number of each."""
    check_floats(("batch", "sequence", "heads", "head_dim"), query=query, key=key, value=value)
    if key.shape != value.shape:
        raise ValueError(f"key {key.shape} and value {value.shape} must have the same shape")
    check_same_dtype(key=key, value=value)
    if key.shape[0] != query.shape[0] or key.shape[3] != query.shape[3]:
        raise ValueError(f"key {key.shape} must have the batch and head_dim of query {query.shape}")
    heads, key_heads = query.shape[2], key.shape[2]
    if heads % key_heads:
        fits = [count for count in range(1, heads + 1) if heads % count == 0]
        raise ValueError(
            f"{heads} query heads cannot be grouped over {key_heads} key heads; "
            f"any of {fits} would fit"
        )


def ring_size_of(mesh: Mesh | AbstractMesh, axis: str, name: str = "axis") -> int:
    """Returns the number of devices on a mesh axis; ValueError if there is none of this name.

    Args:
        mesh: the devices.
        axis: the mesh axis.
        name: of the argument that names it.
    """
    if not isinstance(axis, str) or axis not in mesh.shape:
        nearest = get_close_matches(str(axis), mesh.axis_names, n=1, cutoff=0.0)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        found = dict(mesh.shape)
        raise ValueError(f"{name}={axis!r} is not an axis of the mesh, which has {found}{hint}")
    return mesh.shape[axis]


def batch_axes(batch_axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns the mesh axes of the batch as a tuple."""
    if isinstance(batch_axis, str | None):
        return () if batch_axis is None else (batch_axis,)
    if not isinstance(batch_axis, tuple) or len(set(batch_axis)) < len(batch_axis):
        raise ValueError(
            f"batch_axis={batch_axis!r} must be None, an axis of the mesh or a tuple of different "
            "ones"
        )
    return batch_axis


def check_shards(
    batch: int,
    sequence: int,
    mesh: Mesh | AbstractMesh | None,
    axis: str,
    batch_axis: str | tuple[str, ...] | None,
) -> None:
    """Raises ValueError unless sequence and batch divide over the mesh.

    The sequence needs two equal blocks for each device of the ring.
    """
    if mesh is not None:
        check_mesh(mesh)
    ring_size = 1 if mesh is None else ring_size_of(mesh, axis)
    check_sequence(sequence, ring_size)
    if mesh is None:
        return
    names = batch_axes(batch_axis)
    shards = int(np.prod([ring_size_of(mesh, name, "batch_axis") for name in names]))
    if batch % shards:
        raise ValueError(
            f"batch of {batch} does not divide over batch_axis={batch_axis!r} of size {shards}; "
            f"{-(-batch // shards) * shards} would fit"
        )
    if axis in names:
        raise ValueError(
            f"axis={axis!r} cannot shard both the sequence and the batch "
            f"(batch_axis={batch_axis!r})"
        )


def check_sequence(sequence: int, ring_size: int) -> None:
    """Raises ValueError unless a sequence divides into two blocks for each device of a ring."""
    block = 2 * ring_size
    if sequence % block:
        raise ValueError(
            f"sequence of {sequence} does not divide into two blocks for each of {ring_size} "
            f"devices: it must be a multiple of {block}; "
            f"to_layout pads it to {-(-sequence // block) * block}"
        )


def check_mesh(mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError unless functions of whole arrays can use the mesh in this context."""
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise ValueError(f"mesh={shown(mesh)} must be a jax.sharding.Mesh or AbstractMesh")
    around = get_abstract_mesh()
    if AxisType.Manual in (*around.axis_types, *mesh.axis_types):
        raise ValueError(
            "this takes whole arrays, but is called inside a jax.shard_map, where each device has "
            "its part: for attention, call ring_attention outside, or ring_attention_shard here; "
            "if the jax.shard_map is over other axes than the ring's, call "
            "jax.shard_map(ring_attention_shard, axis_names={axis}, ...) in it"
        )
    abstract = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    if not around.empty and around != abstract:
        raise ValueError(
            f"mesh={abstract} is not the mesh of jax.set_mesh, {around}: "
            "pass jax.sharding.get_abstract_mesh(), or leave that context"
        )


def shown(value: Any) -> str:
    """Returns a value in a few words, for error messages."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"a {type(value).__name__}"
