"""No array of a train step grows with the square of the context, but those of dense attention."""

import dataclasses
import math
import re

import jax
import pytest

from agentic_transformer.config import PlanCommand
from agentic_transformer.planning.compiler import lowerable
from agentic_transformer.planning.hardware import Topology
from agentic_transformer.planning.workload import SHARED, Workload
from agentic_transformer.ring import BACKBONES, backbones, plain_kernel

TENSOR = re.compile(r"tensor<((?:\d+x)*)[a-z]\w*>")


def sizes(attention, tokens, remat):
    """Entries of every tensor of the lowered step, in its order."""
    model = dataclasses.replace(PlanCommand().model, width=32, layers=3, heads=2, attention=attention, remat=remat)
    ring = 8 if attention in SHARED else 1
    where = Workload(Topology("eight virtual devices", "v5e", 8), model, tokens, 24, 6, 1000, ring)
    step, state, batch = lowerable(where, jax.devices())
    return [math.prod(map(int, shape.split("x")[:-1])) for shape in TENSOR.findall(step.lower(state, batch).as_text())]


def growth(attention, remat="block"):
    """By how much the tensors grow from one context to the double of it; loops are rolled, so that they are the same tensors."""
    before, after = (sizes(attention, tokens, remat) for tokens in (4096, 8192))
    assert len(before) == len(after)
    return [more / less for less, more in zip(before, after, strict=True)]


@pytest.mark.parametrize("remat", ["block", "none"])
@pytest.mark.parametrize("attention", [name for name in BACKBONES if name != "dense"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_no_tensor_grows_with_the_square_of_the_context(attention, remat, platform, monkeypatch):
    kernel = plain_kernel(platform, *([] if platform == "cpu" else [backbones.ACCELERATOR_CHUNKS]))
    monkeypatch.setattr(backbones, "_default_kernel", lambda _: kernel)
    assert max(growth(attention, remat)) == 2


def test_dense_attention_does():
    assert max(growth("dense")) == 4
