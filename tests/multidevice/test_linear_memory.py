"""No array of a train step grows with the square of the context, but those of dense attention."""

import dataclasses
import math
import re

import jax
import pytest

from agentic_transformer.capacity.compiler import abstract_step
from agentic_transformer.capacity.hardware import Topology
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import PlanCommand
from agentic_transformer.ring import BACKBONES
from agentic_transformer.ring.api import SHARED

pytestmark = pytest.mark.slow

CONTEXTS = 4096, 8192
"""Tokens a device."""

TENSOR = re.compile(r"tensor<((?:\d+x)*)[a-z]\w*>")


def lowered(attention, tokens, remat, kernel):
    """The lowered step of a small model."""
    jax.clear_caches()  # what was traced before is lowered in fewer words
    small = {"width": 32, "layers": 3, "heads": 2, "remat": remat}
    model = dataclasses.replace(PlanCommand().model, attention=attention, kernel=kernel, **small)
    ring = 8 if attention in SHARED else 1
    where = Workload(Topology("eight virtual devices", "v5e", 8), model, tokens, 24, 6, 1000, ring)
    step, state, batch = abstract_step(where, jax.devices())
    return step.lower(state, batch)


def sizes(*setting):
    """Entries of every tensor of the lowered step, in its order."""
    return [
        math.prod(map(int, shape.split("x")[:-1]))
        for shape in TENSOR.findall(lowered(*setting).as_text())
    ]


def grown(attention, remat="block", kernel="auto"):
    """Entries of the tensors that grow more than twice from one context to the double of it.

    Loops are rolled: both programs have the same tensors.
    """
    before, after = (sizes(attention, tokens, remat, kernel) for tokens in CONTEXTS)
    assert len(before) == len(after)
    return [more for less, more in zip(before, after, strict=True) if more > 2 * less]


@pytest.mark.parametrize("kernel", ["xla", "cpu"])
@pytest.mark.parametrize("remat", ["full", "block", "none"])
@pytest.mark.parametrize("attention", [name for name in BACKBONES if name != "dense"])
def test_nothing_grows_with_the_square_of_the_context(attention, remat, kernel):
    assert not grown(attention, remat, kernel)


def test_only_full_rematerialisation_goes_around_the_ring_again():
    """Layers and rings are rolled: a pass around the ring has the same permutes in every program.

    Without rematerialisation there is one pass forward and one backward.
    """
    permutes = {
        remat: lowered("ring", 64, remat, "xla").as_text().count("stablehlo.collective_permute")
        for remat in ("none", "dots", "block", "full")
    }
    assert permutes["none"] == permutes["dots"] == permutes["block"] < permutes["full"]


def test_dense_attention_does():
    assert max(grown("dense")) >= CONTEXTS[1] ** 2
