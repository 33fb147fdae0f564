"""Maps functions over the devices of a mesh, whatever the types of its axes.

The sharding of an array is part of its type along axes that are `AxisType.Explicit`; along
`AxisType.Auto` axes the compiler chooses it. Both give the same results here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

GPUS = ("gpu", "cuda")
"""Names of the platform of NVIDIA's GPUs: of devices, and of topologies without devices."""


def platform_of(mesh: Mesh | AbstractMesh | None) -> str:
    """Returns the platform of the devices, such as "cpu"; the default one if they are not known."""
    return mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else jax.default_backend()


def map_over_devices(
    function: Callable[..., Any],
    mesh: Mesh | AbstractMesh,
    in_specs: tuple[PartitionSpec, ...],
    out_specs: PartitionSpec,
) -> Callable[..., Any]:
    """Maps a function over the devices; its arguments, trees of arrays or None, are resharded."""
    # Replication is not tracked: loops carry device-dependent values next to constants.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    if AxisType.Explicit not in mesh.axis_types:
        return mapped
    shardings = [NamedSharding(mesh, _explicit(spec, mesh)) for spec in in_specs]

    def reshard_and_map(*arguments: Any) -> Any:
        pairs = zip(arguments, shardings, strict=True)
        return mapped(
            *(jax.tree.map(lambda x, to=to: jax.reshard(x, to), tree) for tree, to in pairs)
        )

    return reshard_and_map


def _explicit(spec: PartitionSpec, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Returns a spec with its explicit axes only: a type holds no others."""
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))

    def explicit_names(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if types[name] == AxisType.Explicit) or None

    return PartitionSpec(*map(explicit_names, spec))


def map_without_mesh(
    function: Callable[..., jax.Array], whole_axis: int | None = None
) -> Callable[..., jax.Array]:
    """Lets the compiler shard a function; its result has the sharding of the first argument.

    Args:
        function: of arrays, the first of as many axes as the result.
        whole_axis: an axis of the result that explicit axes of the mesh do not shard.
    """

    def auto_sharded(*arguments: Any) -> jax.Array:
        sharding = jax.typeof(arguments[0]).sharding
        if AxisType.Explicit not in sharding.mesh.axis_types:
            return function(*arguments)
        check_manual(sharding)
        if whole_axis is not None:
            spec = [*sharding.spec, *[None] * (arguments[0].ndim - len(sharding.spec))]
            spec[whole_axis] = None
            sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
        return jax.sharding.auto_axes(function, out_sharding=sharding)(*arguments)

    return auto_sharded


def check_manual(sharding: NamedSharding) -> None:
    """Raises ValueError for the type of an array within a `jax.shard_map` over some axes only.

    JAX can neither reshard nor differentiate there along axes that stayed explicit.
    """
    mesh = sharding.mesh
    pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
    others = tuple(name for name, kind in pairs if kind == AxisType.Explicit)
    if others and AxisType.Manual in mesh.axis_types:
        raise ValueError(
            f"this is inside a jax.shard_map that leaves the axes {others} explicit, where JAX "
            "cannot do this: name them in in_specs and give no axis_names, or make them "
            "AxisType.Auto"
        )


def check_devices(mesh: Mesh | AbstractMesh | None, **arrays: Any) -> None:
    """Raises ValueError where arrays lie on other devices than the mesh, or the mesh has none.

    An abstract mesh takes its devices from `jax.set_mesh` or from the arrays.
    """
    if (
        isinstance(mesh, AbstractMesh)
        and jax.sharding.get_abstract_mesh().empty
        and not any(map(_is_placed, arrays.values()))
    ):
        raise ValueError(
            f"{mesh} has no devices: pass a jax.sharding.Mesh, or call this under jax.set_mesh of "
            "one"
        )
    if not isinstance(mesh, Mesh):
        return
    devices = list(mesh.devices.flat)
    for name, array in arrays.items():
        if isinstance(array, jax.core.Tracer) or not getattr(array, "committed", False):
            continue
        sharding = array.sharding
        if isinstance(sharding, NamedSharding):
            same = sharding.mesh is mesh or list(sharding.mesh.devices.flat) == devices
        else:
            same = sharding.device_set == set(devices)
        if not same:
            raise ValueError(
                f"{name} lies on other devices than the mesh's, or in another order: "
                f"move it there, jax.device_put({name}, NamedSharding(mesh, PartitionSpec()))"
            )


def _is_placed(array: Any) -> bool:
    """Returns whether the devices of an array are known; those of a traced array may be."""
    return isinstance(array, jax.core.Tracer) or isinstance(
        getattr(array, "sharding", None), NamedSharding
    )
