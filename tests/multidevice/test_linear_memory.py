"""No array of a train step grows with the square of the context, but those of dense attention and a table of chunks."""

import dataclasses
import math
import re

import jax
import pytest

from agentic_transformer.config import PlanCommand
from agentic_transformer.planning.compiler import lowerable
from agentic_transformer.planning.hardware import Topology
from agentic_transformer.planning.workload import SHARED, Workload
from agentic_transformer.ring import BACKBONES, backbones
from agentic_transformer.ring.plain import ACCELERATOR_CHUNKS, CPU_CHUNKS, plain_kernel

TOKENS = 8192
"""A device."""

CHUNKS = {"cpu": CPU_CHUNKS, "tpu": ACCELERATOR_CHUNKS}

TENSOR = re.compile(r"tensor<((?:\d+x)*)[a-z]\w*>")


def sizes(attention, tokens, remat):
    """Entries of every tensor of the lowered step, in its order."""
    jax.clear_caches()  # what was traced before is lowered in fewer words
    model = dataclasses.replace(PlanCommand().model, width=32, layers=3, heads=2, attention=attention, remat=remat)
    ring = 8 if attention in SHARED else 1
    where = Workload(Topology("eight virtual devices", "v5e", 8), model, tokens, 24, 6, 1000, ring)
    step, state, batch = lowerable(where, jax.devices())
    return [math.prod(map(int, shape.split("x")[:-1])) for shape in TENSOR.findall(step.lower(state, batch).as_text())]


def grown(attention, remat="block"):
    """Entries of the tensors that grow more than twice from one context to the double of it.

    Loops are rolled: both programs have the same tensors.
    """
    before, after = (sizes(attention, tokens, remat) for tokens in (4096, TOKENS))
    assert len(before) == len(after)
    return [more for less, more in zip(before, after, strict=True) if more > 2 * less]


@pytest.mark.parametrize("platform", ["tpu", "cpu"])
@pytest.mark.parametrize("remat", ["block", "none"])
@pytest.mark.parametrize("attention", [name for name in BACKBONES if name != "dense"])
def test_nothing_grows_with_the_square_of_the_context_but_a_table_of_chunks(attention, remat, platform, monkeypatch):
    """Which chunks see each other is tabled once a block: at 512 x 512, 16 MB of int32 at a million tokens a device."""
    kernel, chunks = plain_kernel(platform), CHUNKS[platform]
    monkeypatch.setattr(backbones, "_default_kernel", lambda _: kernel)
    keys = TOKENS * (8 if attention == "all_gather" else 1)
    entries = TOKENS // chunks.queries * (keys // chunks.keys)
    # Of all eight devices together, where the array is a global one.
    assert max(grown(attention, remat), default=0) <= 8 * entries


def test_dense_attention_does():
    assert max(grown("dense")) >= TOKENS**2
