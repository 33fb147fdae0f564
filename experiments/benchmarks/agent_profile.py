"""Reads from a profiler trace where the time of a compiled training step goes."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

KINDS = (
    "attention, products",
    "attention, the rest",
    "layers, products",
    "optimiser",
    "norms, activations, head",
)

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition)=%([\w.\-]+)|branch_computations=\{([^}]*)\}"
)


def shares(call: Callable[[], Any], program: str) -> dict[str, float]:
    """Returns the shares of the time of a compiled training step, by kind of work.

    Args:
        call: runs the step once.
        program: text of the step's program, as XLA optimised it.

    Returns:
        The share of the time of all operations, for each of `KINDS`.
    """
    kinds = dict(instruction_kinds(program))
    spent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (trace,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in kinds:
                        spent[kinds[event.name]] += event.duration_ns
    return {kind: spent[kind] / spent.total() for kind in KINDS}


def instruction_kinds(program: str) -> Iterator[tuple[str, str]]:
    """Yields the instructions of a program with their kinds.

    Loops and calls are left out: their time is that of the instructions they hold.
    """
    bodies: dict[str, list[str]] = {}
    for line in program.splitlines():
        if head := _COMPUTATION.match(line):
            body = bodies.setdefault(head[1], [])
        elif _INSTRUCTION.match(line):
            body.append(line)
    in_loops = set(
        _called_from(
            bodies, [line for body in bodies.values() for line in body if " while(" in line]
        )
    )
    for name, body in bodies.items():
        for line in body:
            if not re.search(r" (while|call|conditional)\(", line):
                fused = [inner for called in _called(line) for inner in bodies[called]]
                yield (
                    _INSTRUCTION.match(line)[1],
                    _kind("\n".join([line, *fused]), looped=name in in_loops),
                )


def _called(line: str) -> list[str]:
    """Returns the computations that an instruction names."""
    return [
        name
        for one, several in _CALLS.findall(line)
        for name in re.findall(r"[\w.\-]+", one or several)
    ]


def _called_from(bodies: dict[str, list[str]], lines: list[str]) -> Iterator[str]:
    """Yields the computations that instructions call, and those called in turn."""
    for line in lines:
        for name in _called(line):
            yield name
            yield from _called_from(bodies, bodies[name])


def _kind(text: str, looped: bool) -> str:
    """Returns the kind of an instruction, given with what is fused into it."""
    product = " dot(" in text
    # Some instructions lose the name of their origin. Attention is known by what it alone has: it
    # is jitted by itself, it loops, and its products are batched.
    if looped or "jit(apply)" in text or "lhs_batch_dims" in text:
        return "attention, products" if product else "attention, the rest"
    if product:
        return "layers, products"
    return "norms, activations, head" if "jvp" in text or "op_name" not in text else "optimiser"
