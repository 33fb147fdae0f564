"""Describes the machines that can be planned for.

Each file of `devices/` describes an accelerator, with the source of every figure. This module has
no heavy imports, so that a command line can be checked against it.
"""

from __future__ import annotations

import math
import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from agentic_transformer.errors import raise_config_error

GIB = 2**30
DEVICES = Path(__file__).parent / "devices"


class Family(NamedTuple):
    """Describes a kind of machine: one kind of accelerator, and the links between them.

    Attributes:
        device: name of the accelerator's files in `DEVICES`.
        platform: "tpu" or "gpu".
        memory: bytes that a program may use.
        flops: peak dense FLOP/s in bfloat16.
        link: byte/s to a neighbour, one way, within a host (of a TPU: within the pod).
        layouts: the layouts that exist; empty if they are too many to list.
        host: devices of a host; None if the links between hosts are no slower.
        link_between: byte/s to a neighbour on another host, one way.
    """

    device: str
    platform: str
    memory: float
    flops: float
    link: float
    layouts: tuple[str, ...] = ()
    host: int | None = None
    link_between: float | None = None


def _families() -> dict[str, Family]:
    """Reads `DEVICES`. GPUs make two families: one host, and several of them."""
    families = {}
    for path in sorted(DEVICES.glob("*.toml")):
        said, name = tomllib.loads(path.read_text()), path.stem
        rates = {link: float(figures["rate"]) for link, figures in said["links"].items()}
        device = (name, said["platform"], float(said["memory"]["bytes"]), said["flops"]["rate"])
        if said["platform"] == "tpu":
            families[name] = Family(*device, rates["ici"], tuple(said["layouts"]))
            continue
        host = said["host"]
        layouts = tuple(map(str, range(1, host + 1)))
        families[name] = Family(*device, rates["nvlink"], layouts, host)
        families[f"{name}_infiniband"] = Family(
            *device, rates["nvlink"], (), host, rates["infiniband"]
        )
    return families


FAMILIES = _families()


class Topology(NamedTuple):
    """Describes a number of accelerators of a family, such as `v5e:4x4` or `a100:8`."""

    name: str
    family: str
    devices: int

    @property
    def machine(self) -> Family:
        """Returns the family."""
        return FAMILIES[self.family]

    @property
    def platform(self) -> str:
        """Returns "tpu" or "gpu"."""
        return self.machine.platform

    @property
    def memory(self) -> float:
        """Returns the bytes that a program may use on each device."""
        return self.machine.memory

    @property
    def hosts(self) -> int:
        """Returns the number of hosts of GPUs; 1 for a pod of TPUs."""
        return 1 if self.machine.link_between is None else self.devices // self.machine.host

    def link(self, ring: int) -> float:
        """Returns the byte/s, one way, of the slowest hop of a ring of neighbouring devices.

        Args:
            ring: devices of the ring.
        """
        machine = self.machine
        if machine.link_between is None or machine.host % ring == 0:
            return machine.link
        return machine.link_between


def topology(name: str) -> Topology:
    """Reads the name of a topology.

    Raises:
        UserError: there is no such topology; it lists those that exist and names the nearest.
    """
    family, _, layout = name.partition(":")
    if family in FAMILIES:
        machine = FAMILIES[family]
        if layout in machine.layouts:
            return Topology(name, family, math.prod(map(int, layout.split("x"))))
        if not machine.layouts and re.fullmatch(r"[1-9]\d{1,4}", layout):
            devices = int(layout)
            if devices > machine.host and devices % machine.host == 0:
                return Topology(name, family, devices)
    problem = f"topology={name}: no such topology"
    return raise_config_error(problem, _allowed(family), _nearest(name))


def _allowed(family: str) -> str:
    """Lists the names of topologies: those of a family, or an example of each family."""
    if family not in FAMILIES:
        some = ", ".join(f"{name}:{_largest(kind)}" for name, kind in FAMILIES.items())
        return f"several of each kind, for example {some}"
    machine = FAMILIES[family]
    if machine.layouts:
        return ", ".join(f"{family}:{layout}" for layout in machine.layouts)
    return f"{family}:<devices>, whole hosts of {machine.host}, at least two"


def _nearest(name: str) -> str:
    """Returns the name of a topology that is most like a wrong one."""
    names = [
        f"{family}:{layout}"
        for family, kind in FAMILIES.items()
        for layout in kind.layouts or (_largest(kind),)
    ]
    return get_close_matches(name, names, n=1, cutoff=0.0)[0]


def _largest(machine: Family) -> str:
    """Returns the largest layout, or a layout that there is."""
    return machine.layouts[-1] if machine.layouts else str(4 * machine.host)
