"""Finds the longest context that fits: by an estimate, then by as few compilations as possible."""

from __future__ import annotations

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

Compile = Callable[[Workload], Accepted | Refused]


class Bracket(NamedTuple):
    """Holds the two contexts between which the limit lies.

    Attributes:
        estimated: tokens a device by the estimate.
        fits: the longest accepted context with its outcome, or None.
        refused: the shortest refused context with its outcome, or None; of GPUs it may be missing,
            if the accepted one fills their memory.
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


def round_to_chunks(tokens: float) -> int:
    """Rounds tokens a device so that they cut into even chunks.

    The result is a multiple of a power of two, which is from 32 to 1024 and about a hundredth of
    the tokens.
    """
    step = 32
    while step * 100 < tokens and step < 1024:
        step *= 2
    return max(step, round(tokens / step) * step)


def longest_context(workload: Workload, compile_step: Compile) -> Bracket:
    """Finds a bracket of the longest context by at most `MAX_COMPILATIONS` compilations.

    Two are enough if the estimate is right. The first context is a little below the estimate. Each
    compilation gives a new guess of the limit: the next context is a little above it after one that
    fits, and a little below it after one that does not.

    Args:
        workload: what to train; its context does not matter.
        compile_step: compiles a workload.
    """
    estimated = estimated_tokens(workload)
    bracket = Bracket(estimated, None, None, 0)
    tokens = round_to_chunks(BELOW * estimated)
    while bracket.compilations < MAX_COMPILATIONS and not _narrow(bracket):
        tried = workload.with_tokens(tokens)
        outcome = compile_step(tried)
        bracket = bracket._replace(compilations=bracket.compilations + 1)
        if isinstance(outcome, Refused):
            if bracket.refused is None or tokens < bracket.refused[0].tokens:
                bracket = bracket._replace(refused=(tried, outcome))
            tokens = round_to_chunks(BELOW * _limit(tried, outcome.required))
        else:
            if bracket.fits is None or tokens > bracket.fits[0].tokens:
                bracket = bracket._replace(fits=(tried, outcome))
            tokens = round_to_chunks(ABOVE * _limit(tried, outcome.memory.peak))
    return bracket


def _narrow(bracket: Bracket) -> bool:
    """Returns whether the ends of a bracket are near enough.

    The compiler of GPUs refuses nothing: there the memory itself is the other end.
    """
    if bracket.fits and bracket.fits[0].topology.platform == "gpu":
        fits, outcome = bracket.fits
        return _limit(fits, outcome.memory.peak) <= NARROW * fits.tokens
    return (
        bool(bracket.fits and bracket.refused)
        and bracket.refused[0].tokens <= NARROW * bracket.fits[0].tokens
    )


def _limit(tried: Workload, needed: float) -> float:
    """Returns the tokens a device at which a program would just fit.

    This assumes that all memory besides the state grows in proportion to the tokens.
    """
    state = memory.estimate(tried).state
    return tried.tokens * max(0.0, tried.topology.memory - state) / max(1.0, needed - state)
