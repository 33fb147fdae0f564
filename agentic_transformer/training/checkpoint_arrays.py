"""Reads the arrays of a checkpoint exactly: never cast, never reshaped.

Orbax itself would cast types and accept other shapes, so the arrays are read with tensorstore. An
item is one folder of a checkpoint, `params` or `optimizer`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tensorstore as ts

from agentic_transformer.training import old_names


class _StoredArray(NamedTuple):
    """Describes an array on disk."""

    name: str
    """Its name on disk, which an older version may have given."""
    type_and_shape: str
    """Such as `float32[16, 4]`."""


def check_arrays(folder: Path, like: Any) -> None:
    """Checks that an item of a checkpoint can be opened and holds certain arrays and no others.

    Args:
        folder: the item's folder.
        like: tree of arrays, or of their shapes and types.

    Raises:
        ValueError: an array is missing, unknown, or has another shape or type than in `like`.
    """
    _check_and_index(folder, _open(folder), like)


def read_arrays(folder: Path, like: Any) -> Any:
    """Reads the arrays of an item; every process reads its own part.

    Args:
        folder: the item's folder.
        like: tree of arrays, or of their shapes and types, with the shardings wanted.

    Returns:
        The same tree with the stored values, laid out as `like` is.

    Raises:
        ValueError: see `check_arrays`.
    """
    store = _open(folder)
    stored = _check_and_index(folder, store, like)

    # Each device asks for its own part by an index, whatever the sharding at the save was.
    def read(key: jax.tree_util.KeyPath, leaf: Any) -> jax.Array:
        place = store / f"{stored[_name(key)].name}/"
        array = ts.open({"driver": "zarr"}, kvstore=place).result()
        return jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: array[index].read().result()
        )

    return jax.tree_util.tree_map_with_path(read, like)


def _open(folder: Path) -> ts.KvStore:
    base = {"driver": "file", "path": f"{folder}/"}
    return ts.KvStore.open({"driver": "ocdbt", "base": base}).result()


def _check_and_index(folder: Path, store: ts.KvStore, like: Any) -> dict[str, _StoredArray]:
    """Returns the stored arrays by their current names.

    Raises:
        ValueError: see `check_arrays`.
    """
    stored = {old_names.current_array(array.name): array for array in _stored_arrays(store)}
    if any(name != array.name for name, array in stored.items()):
        old_names.warn(folder.parent)
    # Types and shapes are compared as text, which the error then shows.
    there = {name: array.type_and_shape for name, array in stored.items()}
    here = {
        _name(key): f"{leaf.dtype}{list(leaf.shape)}"
        for key, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"{folder}: {name} is {there.get(name, 'missing')} there, "
                f"the agent's is {here.get(name, 'missing')}"
            )
    return stored


def _stored_arrays(store: ts.KvStore) -> list[_StoredArray]:
    """Describes all arrays of an item, from the headers that zarr writes."""
    files = (file.decode() for file in store.list().result())
    names = [file.removesuffix("/.zarray") for file in files if file.endswith("/.zarray")]
    headers = {name: json.loads(store[f"{name}/.zarray"]) for name in names}
    return [
        _StoredArray(name, f"{jnp.dtype(header['dtype'])}{header['shape']}")
        for name, header in headers.items()
    ]


def _name(key: jax.tree_util.KeyPath) -> str:
    """Returns the name of an array in a tree, as orbax writes it."""
    return jax.tree_util.keystr(key, simple=True, separator=".")
