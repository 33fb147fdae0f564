"""Reads from a scheduled HLO program which computation stands beside each collective permute.

Computation between the start and the end of a permute does not prove that it lasts as long as the
transfer. `agentic_transformer.capacity.roofline` compares their times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import NamedTuple

# The result begins with what is sent: one array, or several in brackets of their own.
_START = re.compile(r"%(collective-permute-start[.\w]*) = \((?:\((.*?)\), \(|(\w+\[[\d,]*\]))")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_DONE = re.compile(r"collective-permute-done\(.*?%?(collective-permute-start[.\w]*)\)")
# Fused attention is a custom call: of cuDNN on a GPU, of a kernel of Pallas on a TPU.
_FUSED = re.compile(r' custom-call\(.*custom_call_target="(?:__cudnn\$fmha|tpu_custom_call)')
# A GPU's products are calls of cuBLAS.
_CALLS = rf'{_FUSED.pattern}| custom-call\(.*custom_call_target="__cublas'
_COMPUTE = re.compile(rf" (fusion|while|convolution|dot)\(|{_CALLS}")
# Matrix products, or the loop over chunks of them.
_PRODUCTS = re.compile(rf" (while|convolution|dot)\(|fusion\(.*kind=kOutput|{_CALLS}")
_CONDITIONAL = re.compile(r" conditional\(")
_BRANCHES = re.compile(
    r"(?:true_computation|false_computation|branch_computations)=({.*?}|%[\w.-]+)"
)
_COMPUTATION = re.compile(r"^%([\w.-]+) .*?^}", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r'op_name="([^"]*)"')
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


DIRECTIONS = ("forward", "forward again", "backward")
"""Passes of a step that a permute may belong to; `forward again` is rematerialised."""


class Permute(NamedTuple):
    """Describes one permute of a scheduled program.

    Attributes:
        of_ring: whether it belongs to the ring; other permutes bring sharded gradients to where
            they are kept.
        direction: one of `DIRECTIONS`.
        sent_bytes: bytes that each device sends.
        beside_computation: whether computation stands between its start and its end.
        beside_products: whether matrix products stand there, fused attention among them.
        beside_attention: whether a call of fused attention stands there.
    """

    of_ring: bool
    direction: str
    sent_bytes: int
    beside_computation: bool
    beside_products: bool
    beside_attention: bool = False


class Overlap(NamedTuple):
    """Counts permutes, and those with computation, products and fused attention beside them."""

    permutes: int
    beside_computation: int
    beside_products: int
    beside_attention: int


def count_overlap(permutes: Collection[Permute]) -> Overlap:
    """Returns how many permutes there are, and beside how many of them something is computed."""
    kinds = Overlap._fields[1:]
    counts = (sum(getattr(permute, kind) for permute in permutes) for kind in kinds)
    return Overlap(len(permutes), *counts)


def read_permutes(program: str) -> list[Permute]:
    """Returns the permutes of a scheduled program, in the order in which they end.

    What stands in a branch of a conditional stands beside the permutes around the conditional.
    """
    bodies = {match[1]: match[0] for match in _COMPUTATION.finditer(program)}
    started: dict[str, Permute] = {}
    found = []
    for line in program.splitlines():
        if _CONDITIONAL.search(line):
            names = re.findall(r"%([\w.-]+)", " ".join(_BRANCHES.findall(line)))
            line = "".join(bodies.get(name, "").replace("\n", " ") for name in names)
        if match := _DONE.search(line):
            found.append(started.pop(match[1]))
        elif match := _START.search(line):
            started[match[1]] = _started(match, line)
        elif _COMPUTE.search(line):
            products = _PRODUCTS.search(line) is not None
            attention = _FUSED.search(line) is not None
            for name, permute in started.items():
                started[name] = permute._replace(
                    beside_computation=True,
                    beside_products=permute.beside_products or products,
                    beside_attention=permute.beside_attention or attention,
                )
    return found


def count_fused_calls(program: str) -> int:
    """Returns the number of calls of fused attention in the text of a program."""
    return len(_FUSED.findall(program))


def count_conditionals(program: str) -> int:
    """Returns the number of conditionals in the text of a program."""
    return len(_CONDITIONAL.findall(program))


def _started(match: re.Match, line: str) -> Permute:
    """Returns a permute as its first line describes it; nothing stands beside it yet."""
    name = found[1] if (found := _NAME.search(line)) else ""
    again = "rematted_computation" in name
    direction = "forward again" if again else "backward" if "transpose(" in name else "forward"
    sent = sum(
        _BYTES[dtype] * math.prod(int(size) for size in shape.split(",") if size)
        for dtype, shape in _ARRAY.findall(match[2] or match[3])
    )
    return Permute(name.endswith("ppermute"), direction, sent, False, False)
