"""The bracket of the longest context, by a compiler whose memory is known."""

import dataclasses
import itertools

import pytest

from agentic_transformer.capacity import longest_context, memory
from agentic_transformer.capacity.outcome import Accepted, Memory, Refused
from agentic_transformer.capacity.plan import make_plan
from agentic_transformer.config import PlanCommand
from tests.capacity.test_estimates import MODEL, workload


class Known:
    """Accepts up to the limit multiples of the estimated state, and of the rest of the memory."""

    def __init__(self, factor, state=1.0):
        self.factor, self.state, self.tried = factor, state, []

    def peak(self, workload):
        found = memory.estimate(workload)
        return self.state * found.state + self.factor * (found.peak - found.state)

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


def nearly_full(layers):
    """Returns a model of which 17 layers leave a tenth of the memory, and 21 none."""
    shape = {"width": 4096, "heads": 32, "layers": layers}
    return workload("v5e:2x2", dataclasses.replace(MODEL, **shape))


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.0, 1.1])
@pytest.mark.parametrize("layers", [17, 19, 20, 21])
def test_where_the_state_fills_the_memory_each_compilation_tells_something(layers, factor):
    """What is compiled takes more or less than estimated, its state too."""
    compiler, machine = Known(factor, state=factor), nearly_full(layers)
    found = longest_context.longest_context(machine, compiler)
    assert len(set(compiler.tried)) == found.compilations <= longest_context.MAX_COMPILATIONS
    for before, after in itertools.pairwise(compiler.tried):
        limit = machine.topology.memory
        accepted = compiler.peak(machine.with_tokens(before)) <= limit
        assert before < after <= 2 * before if accepted else after < before
    shortest = machine.with_tokens(32)
    assert bool(found.fits) == (compiler.peak(shortest) <= shortest.topology.memory)


def test_two_neighbouring_contexts_are_the_narrowest_bracket():
    compiler = Known(1.0)
    found = longest_context.longest_context(nearly_full(20), compiler)
    assert (found.estimated, found.fits[0].tokens, found.refused[0].tokens) == (255, 224, 256)


@pytest.mark.parametrize("layers", [2, 17, 19, 20])
def test_without_a_compiler_the_longest_context_fits_by_the_estimate(layers):
    shape = nearly_full(layers).model
    command = PlanCommand(topology="v5e:2x2", model=shape, solve="context", compile="nothing")
    found = make_plan(command, compile_step=None)
    assert found.verdict == "estimated to fit"
    assert found.workload.tokens > 0.85 * longest_context.estimated_tokens(found.workload)


def test_without_a_compiler_a_model_that_does_not_fit_is_said_not_to():
    command = PlanCommand(
        topology="v5e:2x2", model=nearly_full(21).model, solve="context", compile="nothing"
    )
    assert make_plan(command, compile_step=None).verdict == "estimated not to fit"


def test_what_is_estimated_to_fit_is_the_most_that_does():
    tokens = longest_context.estimated_tokens(workload())
    limit = workload().topology.memory
    assert memory.estimate(workload(tokens=tokens)).peak <= limit
    assert memory.estimate(workload(tokens=int(1.01 * tokens) + 1)).peak > limit


def test_tokens_are_rounded_to_even_chunks():
    tokens = (1, 3000, 40_000, 1_000_500, 3008)
    down = [longest_context.round_to_chunks(number) for number in tokens]
    up = [longest_context.round_to_chunks(number, up=True) for number in tokens]
    assert down == [0, 2976, 39_936, 1_000_448, 3008]
    assert up == [32, 3008, 40_448, 1_001_472, 3008]
