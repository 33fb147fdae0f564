"""Where the time of a compiled training step goes, from a profiler trace of it."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

KINDS = ("attention, products", "attention, the rest", "layers, products", "optimiser", "norms, activations, head")

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*")
_COMPUTATION = re.compile(r"^%?([\w.\-]+) \(.*\{$")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")


def shares(call: Callable[[], Any], program: str) -> dict[str, float]:
    """Shares of the time of a compiled training step, by kind of work.

    Args:
        call: runs the step once.
        program: of the step, as optimised by XLA: its text.

    Returns:
        Of each of `KINDS`, the share of the time of all operations.
    """
    kinds = dict(_kinds(program))
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


def _kinds(program: str) -> Iterator[tuple[str, str]]:
    """(instruction, its kind) of a program; loops and calls, whose time is that of what they hold, are left out."""
    bodies: dict[str, list[str]] = {}
    for line in program.splitlines():
        if head := _COMPUTATION.match(line):
            body = bodies.setdefault(head[1], [])
        elif _INSTRUCTION.match(line):
            body.append(line)
    for line in (line for body in bodies.values() for line in body):
        if not re.search(r" (while|call|conditional)\(", line):
            called = _CALLS.search(line)
            yield _INSTRUCTION.match(line)[1], _kind("\n".join([line, *bodies.get(called[1] if called else "", [])]))


def _kind(text: str) -> str:
    """The kind of an instruction, given with what is fused into it."""
    product = " dot(" in text
    # Attention is jitted by itself, and its products alone are batched (not all of them keep the name of their origin).
    if "jit(apply)" in text or "lhs_batch_dims" in text:
        return "attention, products" if product else "attention, the rest"
    if product:
        return "layers, products"
    return "norms, activations, head" if "jvp" in text or "op_name" not in text else "optimiser"
