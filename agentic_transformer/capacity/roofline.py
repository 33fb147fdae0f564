"""Computes how long a train step takes at least.

The time of a computation is its FLOPs divided by the chip's peak rate. The time of a transfer is
its bytes divided by the rate of one link; in a ring, of the slowest link. If both overlap, the
longer time counts.
"""

from __future__ import annotations

from typing import NamedTuple

from agentic_transformer.capacity import flops
from agentic_transformer.capacity.estimate_settings import KERNELED
from agentic_transformer.capacity.memory import BF16, FLOAT32
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.config import ModelConfig
from agentic_transformer.ring.overlap import Chip, minimal_block

ASSUMPTIONS = (
    "matrix products run at the chip's peak rate in bfloat16; norms, softmax and the optimiser "
    "take no time",
    "each layer is computed forward and backward; before the backward pass, what model.remat does "
    "not keep is computed again; memory_efficient attention keeps no scores, so its forward pass "
    "is computed one more time",
    "in each step of the ring half of the scores are masked, and are not computed; with "
    "model.layout=contiguous the slowest device computes all scores after its first step; dense "
    "and memory_efficient attention and model.kernel=reference always compute all scores",
    "keys, values and their gradients travel over one link, in one direction, while the attention "
    "of their step is computed; nothing else uses this link",
    "weights are gathered in bfloat16, once forward and once backward; their gradients are "
    "scattered, but those of the feedforward network are summed whole, with twice the bytes; all "
    "of this goes over one link, in one direction, while the products of the layer are computed",
    "GPUs of a host are joined by NVLink, and hosts by InfiniBand; a ring is as fast as its "
    "slowest link",
)


def chip_of(workload: Workload) -> Chip:
    """Returns the rates of a workload's accelerators, with the link of its rings."""
    where, machine = workload.topology, workload.topology.machine
    link = where.link(workload.ring)
    return Chip(where.name, machine.flops, link, f"devices/{machine.device}.toml")


class RingStep(NamedTuple):
    """Holds the seconds of one step of the ring on one device: its computation and its transfer."""

    compute: float
    transfer: float

    @property
    def hidden(self) -> bool:
        """Returns whether the computation hides the transfer."""
        return self.compute >= self.transfer


class RingPass(NamedTuple):
    """Holds the seconds that one device computes in all steps of the ring, and those it waits."""

    compute: float
    waiting: float


def ring_step(workload: Workload, *, backward: bool, later: bool = False) -> RingStep:
    """Returns the times of one step of a layer's ring on its slowest device.

    In a step each device attends to one block, while keys and values (in the backward pass their
    gradients too) move to the next device.

    Args:
        workload: what is trained.
        backward: whether the step is of the backward pass.
        later: whether the step is one after the first, see `saves_half`.
    """
    model, chip, tokens = workload.model, chip_of(workload), workload.tokens
    causal, width = saves_half(model, later=later), model.width
    products = flops.layer_attention(model, tokens, tokens, causal=causal)
    if backward:
        # Forward 2 products: q k^T and p v. Backward those of dP = dO v^T, dQ, dK and dV, and
        # q k^T again unless the scores are kept.
        products *= flops.BACKWARD if model.attention == "dense" else flops.BACKWARD + 0.5
    sent = 2 * width * tokens * (BF16 + (FLOAT32 if backward else 0))
    return RingStep(products / chip.flops, sent / chip.link)


def least_tokens(workload: Workload, *, backward: bool, later: bool = False) -> float:
    """Returns the least tokens per device at which the transfer of a ring step hides.

    See `ring.overlap`; the arguments are those of `ring_step`.
    """
    causal = saves_half(workload.model, later=later)
    return minimal_block(chip_of(workload), causal=causal, backward=backward)


def saves_half(model: ModelConfig, *, later: bool) -> bool:
    """Returns whether half of the scores of a ring step are never computed, as masks hide them.

    In the first step each device attends to its own block. In zigzag order a later step has half of
    a block too. In contiguous order the last device, which is the slowest, attends to whole blocks.

    Args:
        model: the model's settings.
        later: whether the step is one after the first. A single device has none.
    """
    skips = model.attention in KERNELED and model.kernel != "reference"
    return skips and not (later and model.layout == "contiguous")


def _ring_pass(workload: Workload, *, backward: bool) -> RingPass:
    """Returns the times of all steps of a layer's ring; the last one transfers nothing."""
    first, later = (ring_step(workload, backward=backward, later=later) for later in (False, True))
    hops = workload.ring - 1
    transfers = ((min(1, hops), first), (max(0, hops - 1), later))
    waiting = sum(times * max(0, step.transfer - step.compute) for times, step in transfers)
    return RingPass(first.compute + hops * later.compute, waiting)


class StepTime(NamedTuple):
    """Holds the seconds of a train step by what they are spent on.

    Attributes:
        compute: FLOPs divided by the peak rate.
        ring: seconds that the transfers of the ring add.
        weights: seconds that gathering weights and scattering gradients add.
        utilisation: FLOPs of the model, divided by what the chips could do in the total time.
    """

    compute: float
    ring: float
    weights: float
    utilisation: float

    @property
    def total(self) -> float:
        """Returns the seconds of the whole step."""
        return self.compute + self.ring + self.weights


def step_time(workload: Workload) -> StepTime:
    """Returns the least time of a train step under `ASSUMPTIONS`."""
    model, chip, tokens = workload.model, chip_of(workload), workload.tokens
    products = flops.layer_products(model, tokens) / chip.flops
    products_backward = (products_again(model) + flops.BACKWARD) * products
    runs, hops = attention_runs(model), workload.ring - 1
    forward, backward = (_ring_pass(workload, backward=backward) for backward in (False, True))
    attention = runs * forward.compute + backward.compute
    waiting = runs * forward.waiting + backward.waiting
    if hops:  # the gradients' last hop home, in bfloat16, has no computation beside it
        waiting += 2 * BF16 * model.width * tokens / chip.link
    devices = workload.topology.devices
    sent_share = (devices - 1) / devices / workload.topology.link(devices)
    whole = BF16 * flops.layer_weights(model) * sent_share
    reduced = BF16 * 2 * model.feedforward * model.width**2 * sent_share
    # Weights are gathered forward, and again backward while gradients are scattered.
    late = max(0, whole - products) + max(0, 2 * whole + reduced - products_backward)
    compute = model.layers * (products + products_backward + attention)
    ring, weights = model.layers * waiting, model.layers * late
    useful = flops.model_flops(model, workload.context) / workload.ring / chip.flops
    return StepTime(compute, ring, weights, useful / (compute + ring + weights))


def products_again(model: ModelConfig) -> float:
    """Returns the share of a layer's forward products that the backward pass computes again.

    A rematerialised layer computes all of them but its last product, `down_proj` with f h^2 of its
    (4 + 2 f) h^2 weights: no gradient within the layer needs the result.
    """
    if model.remat in ("none", "dots"):
        return 0.0
    return 1 - model.feedforward / (4 + 2 * model.feedforward)


def attention_runs(model: ModelConfig) -> int:
    """Returns how often a train step computes the forward pass of attention.

    A rematerialised layer computes it again, unless it keeps what a kernel returned. Memory
    efficient attention rematerialises its own chunks besides.
    """
    again = model.remat == "full" or (model.remat != "none" and model.attention not in KERNELED)
    return 1 + again + (model.attention == "memory_efficient")
