"""The longest context that fits: an estimate, then as few compilations as bracket it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agentic_transformer.capacity import memory
from agentic_transformer.capacity.compiler import Accepted, Refused
from agentic_transformer.capacity.workload import Workload

BELOW, ABOVE = 0.96, 1.04
"""Of the context at which the limit is expected, where it is tried."""

NARROW = 1.15
"""A bracket whose ends are that near each other is good enough."""

COMPILATIONS = 3

Compile = Callable[[Workload], Accepted | Refused]


class Bracket(NamedTuple):
    """Between which contexts the limit lies.

    Attributes:
        estimated: tokens a device that the estimate gives.
        fits: the longest context that the compiler accepted, and what it takes; None if none was.
        refused: the shortest that it refused; None if none was.
        compilations: how many it took.
    """

    estimated: int
    fits: tuple[Workload, Accepted] | None
    refused: tuple[Workload, Refused] | None
    compilations: int


def estimated_tokens(workload: Workload) -> int:
    """The most tokens a device whose estimated peak fits; 0 if not even the parameters do."""
    low, high = 0, 1
    while memory.estimate(workload.with_tokens(high)).peak <= workload.topology.memory:
        low, high = high, 2 * high
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        fits = memory.estimate(workload.with_tokens(middle)).peak <= workload.topology.memory
        low, high = (middle, high) if fits else (low, middle)
    return low


def rounded(tokens: float) -> int:
    """Tokens a device that cut into even chunks: a multiple of about a hundredth of them, at least
    32.
    """
    step = 32
    while step * 100 < tokens and step < 1024:
        step *= 2
    return max(step, round(tokens / step) * step)


def longest_context(workload: Workload, compile_step: Compile) -> Bracket:
    """Brackets the longest context by at most `COMPILATIONS` compilations, two if the estimate is
    right.

    The first is a little below the estimate. Each further one goes where what the one before it
    said of memory points: a little above the limit after one that fits, a little below it after one
    that does not.
    """
    estimated = estimated_tokens(workload)
    bracket = Bracket(estimated, None, None, 0)
    tokens = rounded(BELOW * estimated)
    while bracket.compilations < COMPILATIONS and not _narrow(bracket):
        tried = workload.with_tokens(tokens)
        outcome = compile_step(tried)
        bracket = bracket._replace(compilations=bracket.compilations + 1)
        if isinstance(outcome, Refused):
            if bracket.refused is None or tokens < bracket.refused[0].tokens:
                bracket = bracket._replace(refused=(tried, outcome))
            tokens = rounded(BELOW * _limit(tried, outcome.required))
        else:
            if bracket.fits is None or tokens > bracket.fits[0].tokens:
                bracket = bracket._replace(fits=(tried, outcome))
            tokens = rounded(ABOVE * _limit(tried, outcome.memory.peak))
    return bracket


def _narrow(bracket: Bracket) -> bool:
    return (
        bool(bracket.fits and bracket.refused)
        and bracket.refused[0].tokens <= NARROW * bracket.fits[0].tokens
    )


def _limit(tried: Workload, needed: float) -> float:
    """Tokens at which a program would just fit, if all that it needs beside the state grows in
    proportion to them.
    """
    state = memory.estimate(tried).state
    return tried.tokens * max(0.0, tried.topology.memory - state) / max(1.0, needed - state)
