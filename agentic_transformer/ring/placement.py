"""Functions of each device's part of arrays, for arrays that may lie otherwise.

A mesh whose axes are `AxisType.Explicit` makes where an array lies part of its type; those of
`AxisType.Auto` leave it to the compiler. Both give the same results here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec


def on_mesh(
    function: Callable[..., Any],
    mesh: Mesh | AbstractMesh,
    in_specs: tuple[PartitionSpec, ...],
    out_specs: PartitionSpec,
) -> Callable[..., Any]:
    """Maps a function over the devices; arguments, trees of arrays or None, are brought there."""
    # Replication is not tracked: loops carry device-dependent values next to constants.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    if AxisType.Explicit not in mesh.axis_types:
        return mapped
    places = [NamedSharding(mesh, _explicit(spec, mesh)) for spec in in_specs]

    def brought(*arguments: Any) -> Any:
        pairs = zip(arguments, places, strict=True)
        return mapped(
            *(jax.tree.map(lambda x, at=at: jax.reshard(x, at), tree) for tree, at in pairs)
        )

    return brought


def _explicit(spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Returns what a type can say of a sharding: its explicit axes."""
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))

    def kept(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if kinds[name] == AxisType.Explicit) or None

    return PartitionSpec(*map(kept, spec))


def without_mesh(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Lets the compiler divide a function of arrays, of which the first lies as the result does."""

    def divided(*arguments: Any) -> jax.Array:
        place = jax.typeof(arguments[0]).sharding
        if AxisType.Explicit not in place.mesh.axis_types:
            return function(*arguments)
        return jax.sharding.auto_axes(function, out_sharding=place)(*arguments)

    return divided


def check_devices(mesh: Mesh | AbstractMesh | None, **arrays: Any) -> None:
    """Raises ValueError where an array was put on other devices than the mesh's, or none gives an
    abstract mesh its own.
    """
    if (
        isinstance(mesh, AbstractMesh)
        and jax.sharding.get_abstract_mesh().empty
        and not any(map(_is_placed, arrays.values()))
    ):
        raise ValueError(
            f"{mesh} has no devices: pass a jax.sharding.Mesh, or call this under jax.set_mesh of one"
        )
    if not isinstance(mesh, Mesh):
        return
    devices = list(mesh.devices.flat)
    for name, array in arrays.items():
        if isinstance(array, jax.core.Tracer) or not getattr(array, "committed", False):
            continue
        place = array.sharding
        if isinstance(place, NamedSharding):
            same = place.mesh is mesh or list(place.mesh.devices.flat) == devices
        else:
            same = place.device_set == set(devices)
        if not same:
            raise ValueError(
                f"{name} lies on other devices than the mesh's, or in another order: "
                f"move it there, jax.device_put({name}, NamedSharding(mesh, PartitionSpec()))"
            )


def _is_placed(array: Any) -> bool:
    """Returns whether an array may say on which devices it lies; a traced one may."""
    return isinstance(array, jax.core.Tracer) or isinstance(
        getattr(array, "sharding", None), NamedSharding
    )
