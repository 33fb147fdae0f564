"""Whether the ring's transfers hide behind computation: what a scheduled program says, and what the
rates of the chip say.

That computation stands between the start and the end of a permute does not prove that it lasts as
long as the transfer: the one is read from the program, the other compares the FLOPs of a step of
the ring over the chip's peak with the bytes over its link.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_START = re.compile(r"%(collective-permute-start[.\w]*) = \((\w+)\[([\d,]*)\]")
_DONE = re.compile(r"collective-permute-done\(.*?%?(collective-permute-start[.\w]*)\)")
_COMPUTE = re.compile(r" (fusion|while|convolution|dot)\(")
_PRODUCTS = re.compile(
    r" (while|convolution|dot)\(|fusion\(.*kind=kOutput"
)  # matrix products, or the loop over chunks of them
_NAME = re.compile(r'op_name="([^"]*)"')
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


class Permute(NamedTuple):
    """One permute of a scheduled program.

    Attributes:
        of_ring: whether it is the ring's own; others bring sharded gradients to where they are
            kept.
        direction: "forward", "forward again" (rematerialised) or "backward".
        sent: bytes that each device sends.
        computed: whether computation stands between its start and its end.
        multiplied: whether matrix products do.
    """

    of_ring: bool
    direction: str
    sent: int
    computed: bool
    multiplied: bool


def permutes(program: str) -> list[Permute]:
    """The permutes of a scheduled program, in the order in which they end."""
    started: dict[str, Permute] = {}
    found = []
    for line in program.splitlines():
        if match := _DONE.search(line):
            found.append(started.pop(match[1]))
        elif match := _START.search(line):
            started[match[1]] = _started(match, line)
        elif _COMPUTE.search(line):
            products = _PRODUCTS.search(line) is not None
            for name, permute in started.items():
                started[name] = permute._replace(
                    computed=True, multiplied=permute.multiplied or products
                )
    return found


def _started(match: re.Match, line: str) -> Permute:
    name = found[1] if (found := _NAME.search(line)) else ""
    again = "rematted_computation" in name
    direction = "forward again" if again else "backward" if "transpose(" in name else "forward"
    sent = _BYTES[match[2]] * math.prod(int(size) for size in match[3].split(",") if size)
    return Permute(name.endswith("ppermute"), direction, sent, computed=False, multiplied=False)
