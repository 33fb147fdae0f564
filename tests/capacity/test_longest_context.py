"""The bracket of the longest context, by a compiler whose memory is known."""

import pytest

from agentic_transformer.capacity import longest_context, memory
from agentic_transformer.capacity.outcome import Accepted, Memory, Refused
from tests.capacity.test_estimates import workload


class Known:
    """Accepts up to the limit `factor` times the estimated memory that depends on the context."""

    def __init__(self, factor):
        self.factor, self.tried = factor, []

    def peak(self, workload):
        found = memory.estimate(workload)
        return found.state + self.factor * (found.peak - found.state)

    def __call__(self, workload):
        self.tried.append(workload.tokens)
        peak, limit = self.peak(workload), workload.topology.memory
        if peak > limit:
            return Refused(round(peak), round(limit))
        return Accepted(Memory(round(peak), 0, 0, 0, 0), ())


@pytest.mark.parametrize("factor", [0.6, 0.9, 0.98, 1.0, 1.03, 1.2, 1.6])
def test_the_limit_lies_in_the_bracket(factor):
    compiler = Known(factor)
    found = longest_context.longest_context(workload(), compiler)
    assert found.compilations == len(compiler.tried) <= longest_context.MAX_COMPILATIONS
    fits, refused = found.fits[0], found.refused[0]
    assert compiler.peak(fits) <= fits.topology.memory < compiler.peak(refused)
    assert fits.tokens < refused.tokens <= longest_context.NARROW * fits.tokens
    if abs(factor - 1) < 0.04:
        assert found.compilations == 2


def test_what_is_estimated_to_fit_is_the_most_that_does():
    tokens = longest_context.estimated_tokens(workload())
    limit = workload().topology.memory
    assert memory.estimate(workload(tokens=tokens)).peak <= limit
    assert memory.estimate(workload(tokens=int(1.01 * tokens) + 1)).peak > limit


def test_tokens_are_rounded_to_even_chunks():
    assert [longest_context.round_to_chunks(tokens) for tokens in (1, 3000, 40_000, 1_000_500)] == [
        32,
        3008,
        39936,
        1000448,
    ]
