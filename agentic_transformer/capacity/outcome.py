"""Holds what compilers say of a program: how much memory it takes, or that it does not fit."""

from __future__ import annotations

from typing import NamedTuple

import jax

from agentic_transformer.capacity.hlo_permutes import Permute


class Memory(NamedTuple):
    """Holds the bytes on each device of a program that the compiler accepts.

    Attributes:
        peak: the most that is held at one time, as the compiler plans it.
        arguments: size of the inputs, which are the state and the tokens.
        outputs: size of the outputs.
        shared: size counted in both arguments and outputs, because the state is updated in place.
        temporary: size of all other space; parts of it may never be used at the same time.
    """

    peak: int
    arguments: int
    outputs: int
    shared: int
    temporary: int

    @property
    def conservative(self) -> int:
        """Returns the sum of all sizes, an upper bound."""
        return self.arguments + self.outputs - self.shared + self.temporary


class Refused(NamedTuple):
    """Describes the refusal of a program that does not fit.

    Attributes:
        required: bytes on each device that it would need.
        available: bytes that it may use.
    """

    required: int
    available: int


class Accepted(NamedTuple):
    """Describes a program that fits.

    Attributes:
        memory: the memory that the program takes.
        permutes: its permutes as they are scheduled. A fast compilation has none, because its
            schedule is not the one that would run.
        fused_calls: number of calls of fused attention; a call in a loop counts once.
        conditionals: number of branches. On a GPU each of them waits for the host.
    """

    memory: Memory
    permutes: tuple[Permute, ...]
    fused_calls: int = 0
    conditionals: int = 0

    def of_ring(self, direction: str | None = None) -> list[Permute]:
        """Returns the permutes of the ring, all or those of a direction."""
        return [
            permute
            for permute in self.permutes
            if permute.of_ring and direction in (None, permute.direction)
        ]


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """Returns the memory that a compiled program takes."""
    found = compiled.memory_analysis()
    return Memory(
        found.peak_memory_in_bytes,
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )
