"""Finds the longest context that fits: by an estimate, then by as few compilations as possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from agentic_transformer.capacity import memory
from agentic_transformer.capacity.outcome import Accepted, Refused
from agentic_transformer.capacity.workload import Workload

BELOW, ABOVE = 0.96, 1.04
"""Shares of the context at which the limit is expected. These two contexts are tried."""

NARROW = 1.15
"""A bracket is good enough if its ends differ by at most this factor."""

MAX_COMPILATIONS = 3

SHORTEST = 32
"""Fewest tokens per device that are compiled."""

Compile = Callable[[Workload], Accepted | Refused]


class Bracket(NamedTuple):
    """Holds the two contexts between which the limit lies.

    Attributes:
        estimated: tokens a device by the estimate.
        fits: the longest accepted context with its outcome, or None.
        refused: the shortest refused context with its outcome, or None; it may be missing if the
            accepted one fills the memory of a GPU, or if every compilation was accepted.
        compilations: number of compilations so far.
    """

    estimated: int
    fits: tuple[Workload, Accepted] | None
    refused: tuple[Workload, Refused] | None
    compilations: int


def estimated_tokens(workload: Workload) -> int:
    """Returns the largest number of tokens per device that fits by the estimate; 0 if none does."""
    low, high = 0, 1
    while memory.fits(workload.with_tokens(high)):
        low, high = high, 2 * high
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        fits = memory.fits(workload.with_tokens(middle))
        low, high = (middle, high) if fits else (low, middle)
    return low


def round_to_chunks(tokens: float, *, up: bool = False) -> int:
    """Rounds tokens a device so that they cut into even chunks.

    The result is a multiple of a power of two, which is from 32 to 1024 and about a hundredth of
    the tokens.

    Args:
        tokens: the number to round.
        up: whether to round up; else down, and below `SHORTEST` to 0.
    """
    step = SHORTEST
    while step * 100 < tokens and step < 1024:
        step *= 2
    return (math.ceil if up else math.floor)(tokens / step) * step


def longest_context(workload: Workload, compile_step: Compile) -> Bracket:
    """Finds a bracket of the longest context by at most `MAX_COMPILATIONS` compilations.

    Two are enough if the estimate is right. The first context is a little below the estimate. Each
    compilation gives a new guess of the limit: the next context is a little above it after one that
    fits, and a little below it after one that does not. Each is between the ends of the bracket.

    Args:
        workload: what to train; its context does not matter.
        compile_step: compiles a workload.
    """
    estimated = estimated_tokens(workload)
    bracket = Bracket(estimated, None, None, 0)
    needed = [(0, memory.estimate(workload).state)]  # tokens a device, and bytes
    tokens = max(SHORTEST, round_to_chunks(BELOW * estimated))
    while tokens is not None and bracket.compilations < MAX_COMPILATIONS:
        tried = workload.with_tokens(tokens)
        outcome = compile_step(tried)
        bracket = bracket._replace(compilations=bracket.compilations + 1)
        if isinstance(outcome, Refused):
            bracket = bracket._replace(refused=(tried, outcome))
            needed.append((tokens, outcome.required))
            limit = _limit(workload.topology.memory, *needed[-2:])
            guess = round_to_chunks(BELOW * limit)
        else:
            bracket = bracket._replace(fits=(tried, outcome))
            needed.append((tokens, outcome.memory.peak))
            limit = _limit(workload.topology.memory, *needed[-2:])
            guess = round_to_chunks(ABOVE * limit, up=True)
        tokens = None if _narrow(bracket, limit) else _between(bracket, guess)
    return bracket


def _limit(available: float, *needed: tuple[int, float]) -> float:
    """Returns the tokens a device at which a program would just fit.

    This assumes that memory grows evenly with the tokens.

    Args:
        available: bytes on each device.
        needed: two numbers of tokens, each with the bytes that it needs.
    """
    (fewer, less), (more, most) = sorted(needed)
    # What was compiled may need less than the estimated state: then the limit is far away.
    return more + (available - most) * (more - fewer) / max(1.0, most - less)


def _narrow(bracket: Bracket, limit: float) -> bool:
    """Returns whether the ends of a bracket are near enough.

    The compiler of GPUs refuses nothing: there the memory itself is the other end.
    """
    if bracket.fits is None:
        return False
    fits = bracket.fits[0]
    if fits.topology.platform != "gpu":
        limit = bracket.refused[0].tokens if bracket.refused else math.inf
    return limit <= NARROW * fits.tokens


def _between(bracket: Bracket, guess: int) -> int | None:
    """Returns the tokens between the ends of a bracket that are nearest to a guess; None if none.

    As long as nothing is refused, the upper end is twice the tokens of the context that fits.
    """
    low = round_to_chunks((bracket.fits[0].tokens if bracket.fits else 0) + 1, up=True)
    if bracket.refused:
        high = round_to_chunks(bracket.refused[0].tokens - 1)
    else:
        high = 2 * bracket.fits[0].tokens
    return min(max(guess, low), high) if low <= high else None
