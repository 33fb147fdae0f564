"""Describes the machines that can be planned for.

This module has no heavy imports, so that a command line can be checked against it.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import NamedTuple

GIB = 2**30


class Family(NamedTuple):
    """Describes a kind of accelerator.

    Attributes:
        chip: name in `agentic_transformer.ring.overlap.CHIPS`, which holds the rates. A permute to
            the next device of a ring has one link in one direction.
        memory: bytes that a program may use; for a TPU, the limit that its compiler names when it
            refuses a program.
        layouts: layouts of a TPU's pod that the compiler can describe offline. A GPU has none and
            takes any number of devices.
    """

    chip: str
    memory: float
    layouts: tuple[str, ...] = ()


FAMILIES = {
    "v5e": Family(
        "TPU v5e, one link one way",
        15.75 * GIB,
        ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    ),
    "v5p": Family(
        "TPU v5p, one link one way",
        95.74 * GIB,
        ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16"),
    ),
    "a100": Family("A100 NVLink", 80e9),
    "a100_infiniband": Family("A100 InfiniBand", 80e9),
    "h100": Family("H100 NVLink", 80e9),
    "h100_infiniband": Family("H100 InfiniBand NDR", 80e9),
}


class Topology(NamedTuple):
    """Describes a number of accelerators of a family, such as `v5e:4x4` or `a100:8`."""

    name: str
    family: str
    devices: int

    @property
    def compilable(self) -> bool:
        """Returns whether a compiler for it works without one: TPUs only."""
        return bool(FAMILIES[self.family].layouts)

    @property
    def memory(self) -> float:
        """Returns the bytes that a program may use on each device."""
        return FAMILIES[self.family].memory


def topology(name: str) -> Topology:
    """Reads the name of a topology.

    Raises:
        ValueError: there is no such topology. The first line of the error lists those that exist,
            the second names the nearest.
    """
    family, _, layout = name.partition(":")
    if family in FAMILIES and layout in FAMILIES[family].layouts:
        sizes = map(int, layout.split("x"))
        devices = 1
        for size in sizes:
            devices *= size
        return Topology(name, family, devices)
    if (
        family in FAMILIES
        and not FAMILIES[family].layouts
        and re.fullmatch(r"[1-9]\d{0,4}", layout)
    ):
        return Topology(name, family, int(layout))
    raise ValueError(f"{allowed(family)}\n{nearest(name)}")


def allowed(family: str) -> str:
    """Lists the names of topologies: those of a family, or one of each family."""
    if family not in FAMILIES:
        return ", ".join(
            f"{name}:{kind.layouts[-1] if kind.layouts else 8}" for name, kind in FAMILIES.items()
        )
    layouts = FAMILIES[family].layouts
    return (
        ", ".join(f"{family}:{layout}" for layout in layouts)
        if layouts
        else f"{family}:<number of devices>, to 99999"
    )


def nearest(name: str) -> str:
    """Returns the name of a topology that is most like a wrong one."""
    names = [
        f"{family}:{layout}"
        for family, kind in FAMILIES.items()
        for layout in kind.layouts or ("8",)
    ]
    return get_close_matches(name, names, n=1, cutoff=0.0)[0]
