"""The longest context that fits: an estimate, then as few compilations as bracket it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agentic_transformer.planning import memory
from agentic_transformer.planning.compiler import Accepted, Refused
from agentic_transformer.planning.workload import Workload

BELOW, ABOVE = 0.96, 1.04
"""Of the estimated context, where the bracket is tried first."""

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
    """Tokens a device that cut into even chunks: a multiple of about a hundredth of them, at least 32."""
    step = 32
    while step * 100 < tokens and step < 1024:
        step *= 2
    return max(step, round(tokens / step) * step)


def longest_context(workload: Workload, compile_step: Compile) -> Bracket:
    """Brackets the longest context by at most `COMPILATIONS` compilations.

    The first is a little below the estimate, the second a little above it. If the estimate was wrong, the third goes where what
    the others said of memory points.
    """
    estimated = estimated_tokens(workload)
    bracket = Bracket(estimated, None, None, 0)
    tokens = rounded(BELOW * estimated)
    while bracket.compilations < COMPILATIONS:
        bracket = _with(bracket, workload.with_tokens(tokens), compile_step)
        if bracket.fits and bracket.refused:
            break
        tokens = _next(bracket, workload)
    return bracket


def _with(bracket: Bracket, workload: Workload, compile_step: Compile) -> Bracket:
    outcome = compile_step(workload)
    bracket = bracket._replace(compilations=bracket.compilations + 1)
    if isinstance(outcome, Refused):
        return bracket._replace(refused=(workload, outcome))
    return bracket._replace(fits=(workload, outcome))


def _next(bracket: Bracket, workload: Workload) -> int:
    """Where to try next while the limit is bracketed on one side only."""
    if bracket.fits and bracket.compilations == 1:
        return rounded(ABOVE * bracket.estimated)
    if bracket.fits:
        tried, needed = bracket.fits[0], bracket.fits[1].memory.peak
        return rounded(ABOVE * _scaled(tried, needed, workload.topology.memory))
    tried, needed = bracket.refused[0], bracket.refused[1].required
    return rounded(BELOW * min(tried.tokens, _scaled(tried, needed, workload.topology.memory)))


def _scaled(tried: Workload, needed: float, limit: float) -> float:
    """Tokens at which a program would just fit, if what the estimate does not call state grows in proportion to them."""
    state = memory.estimate(tried).state
    return tried.tokens * max(0.0, limit - state) / max(1.0, needed - state)
