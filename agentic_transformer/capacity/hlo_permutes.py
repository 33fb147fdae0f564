"""Reads from a scheduled HLO program which computation stands beside each collective permute.

Computation between the start and the end of a permute does not prove that it lasts as long as the
transfer. `agentic_transformer.capacity.roofline` compares their times.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_START = re.compile(r"%(collective-permute-start[.\w]*) = \((\w+)\[([\d,]*)\]")
_DONE = re.compile(r"collective-permute-done\(.*?%?(collective-permute-start[.\w]*)\)")
# Fused attention is a custom call of the target that Pallas compiles for TPUs to.
_FUSED = r' custom-call\(.*custom_call_target="tpu_custom_call"'
_COMPUTE = re.compile(rf" (fusion|while|convolution|dot)\(|{_FUSED}")
# Matrix products, or the loop over chunks of them.
_PRODUCTS = re.compile(rf" (while|convolution|dot)\(|fusion\(.*kind=kOutput|{_FUSED}")
_NAME = re.compile(r'op_name="([^"]*)"')
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


class Permute(NamedTuple):
    """Describes one permute of a scheduled program.

    Attributes:
        of_ring: whether it belongs to the ring; other permutes bring sharded gradients to where
            they are kept.
        direction: "forward", "forward again" (rematerialised) or "backward".
        sent_bytes: bytes that each device sends.
        beside_computation: whether computation stands between its start and its end.
        beside_products: whether matrix products stand there.
    """

    of_ring: bool
    direction: str
    sent_bytes: int
    beside_computation: bool
    beside_products: bool


def read_permutes(program: str) -> list[Permute]:
    """Returns the permutes of a scheduled program, in the order in which they end."""
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
                    beside_computation=True, beside_products=permute.beside_products or products
                )
    return found


def _started(match: re.Match, line: str) -> Permute:
    """Returns a permute as its first line describes it; nothing stands beside it yet."""
    name = found[1] if (found := _NAME.search(line)) else ""
    again = "rematted_computation" in name
    direction = "forward again" if again else "backward" if "transpose(" in name else "forward"
    sent = _BYTES[match[2]] * math.prod(int(size) for size in match[3].split(",") if size)
    return Permute(name.endswith("ppermute"), direction, sent, False, False)
