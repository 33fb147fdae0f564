"""Computes how long a train step takes at least.

Computation takes its FLOPs over the chip's peak, a transfer takes its bytes over the rate of one
link: of a ring, that of its slowest hop. If both overlap, the longer one counts.
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
    "matrix products run at the chip's peak in bfloat16; norms, softmax and the optimiser take no "
    "time",
    "a layer is computed forward and backward, and in between again as far as model.remat does not "
    "keep it; half of all scores are masked, evenly over the ring",
    "keys, values and their gradients travel over one link in one direction, their own, beside the "
    "attention of their step",
    "weights are gathered in bfloat16, forward and backward, and their gradients scattered (the "
    "feedforward network's reduced whole, twice the bytes), over one link in one direction, beside "
    "the products of their layer",
    "GPUs of a host are joined by NVLink and hosts by InfiniBand; the slowest hop of a ring counts",
)


def chip_of(workload: Workload) -> Chip:
    """Returns the rates of a workload's accelerators, with the link of its rings."""
    where, machine = workload.topology, workload.topology.machine
    link = where.link(workload.ring)
    return Chip(where.name, machine.flops, machine.memory, link, f"devices/{machine.device}.toml")


class RingStep(NamedTuple):
    """Holds the seconds of one step of the ring on one device: its computation and its transfer."""

    compute: float
    transfer: float

    @property
    def hidden(self) -> bool:
        """Returns whether the computation hides the transfer."""
        return self.compute >= self.transfer


def ring_step(workload: Workload, *, backward: bool) -> RingStep:
    """Returns the times of one step of a layer's ring.

    In a step each device attends to one block, while keys and values (in the backward pass their
    gradients too) move to the next device.

    Args:
        workload: what is trained.
        backward: whether the step is of the backward pass.
    """
    chip, width, tokens = chip_of(workload), workload.model.width, workload.tokens
    # Forward 2 products: q k^T and p v. Backward 5: q k^T again, and those of dP = dO v^T, dQ, dK
    # and dV.
    products = flops.layer_attention(workload.model, tokens, tokens) * (2.5 if backward else 1)
    sent = 2 * width * tokens * (BF16 + (FLOAT32 if backward else 0))
    return RingStep(products / chip.flops, sent / chip.link)


def least_tokens(workload: Workload, *, backward: bool) -> float:
    """Returns the least tokens per device at which transfers hide, see `ring.overlap`."""
    return minimal_block(chip_of(workload), causal=True, backward=backward)


class StepTime(NamedTuple):
    """Holds the seconds of a train step by what they are spent on.

    Attributes:
        compute: FLOPs over peak.
        ring: seconds that the transfers of the ring add.
        weights: seconds that gathering weights and scattering gradients add.
        utilisation: FLOPs of the model over what the chips could do in the total time.
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
    forward, backward = (ring_step(workload, backward=backward) for backward in (False, True))
    runs = 1 if keeps_attention(model) else 2
    attention = workload.ring * (runs * forward.compute + backward.compute)
    hops = workload.ring - 1
    waiting = hops * sum(
        times * max(0, step.transfer - step.compute)
        for times, step in ((runs, forward), (1, backward))
    )
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


def keeps_attention(model: ModelConfig) -> bool:
    """Returns whether attention is kept for the backward pass, which computes it again if not."""
    return model.remat == "none" or (model.remat != "full" and model.attention in KERNELED)
