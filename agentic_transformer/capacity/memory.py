"""Bytes on each device of a train step, by kind: an estimate without a compiler, and the paper's
count of a layer's activations.

State is counted: 4 bytes a parameter and its gradient, 8 for AdamW's two means, each array padded
to the tiles of a TPU. So are the inputs of layers that are kept for the backward pass. What the
rest takes at its fullest, in the backward pass of one layer, is a few times the size of an
activation and of a layer's weights: those numbers are fitted to compiled steps
(`experiments/results/plan`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from agentic_transformer.capacity.workload import Workload
from agentic_transformer.training.fsdp import shard_shape

BF16, FLOAT32 = 2, 4
TILE = (8, 128)
"""Rows and columns of float32 that a TPU keeps together: the last two axes of an array, in whatever
order, are padded to them."""


class Held(NamedTuple):
    """What the backward pass of one layer holds at its fullest.

    Attributes:
        weights: bytes for each entry of a width x width matrix: the layer's 12 of them gathered,
            their gradients, and float32 sums of some.
        ring: bytes for each token and entry of the width: keys and values, those that arrive, and
            the float32 gradients of both.
        activation: likewise, all else.
        heads: likewise, of arrays that end in a head's entries, which are padded to whole tiles.
        score: bytes for each head and pair of tokens.
    """

    weights: float
    ring: float
    activation: float
    heads: float
    score: float = 0


HELD = {
    "ring": Held(weights=62, ring=24, activation=8, heads=6),
    "blockwise": Held(weights=62, ring=0, activation=24, heads=4),
    "memory_efficient": Held(weights=35, ring=0, activation=20, heads=16),
    "dense": Held(weights=6, ring=0, activation=19, heads=0, score=6),
}


class Estimate(NamedTuple):
    """Bytes on each device, by kind."""

    parameters: float
    optimizer: float
    gradients: float
    checkpoints: float
    """Inputs of all layers, kept for the backward pass."""
    ring: float
    """What travels and arrives, and its gradients."""
    working: float
    """Of one layer: its gathered weights, their gradients, and all other activations."""

    @property
    def state(self) -> float:
        """What does not depend on the context."""
        return self.parameters + self.optimizer + self.gradients

    @property
    def peak(self) -> float:
        """All of it."""
        return sum(self)


def estimate(workload: Workload) -> Estimate:
    """Estimates a train step, its state sharded over all devices: of the model with the settings of
    `modelled.instead`.
    """
    model, tokens = workload.model, workload.tokens
    held = HELD[model.attention]
    activation = float(tokens) * model.width
    parameters = parameter_bytes(workload)
    head = model.width // model.heads
    padded = -(-head // TILE[1]) * TILE[1] / head
    return Estimate(
        parameters=parameters,
        optimizer=2 * parameters,
        gradients=parameters,
        checkpoints=BF16 * model.layers * activation,
        ring=held.ring * activation,
        working=held.weights * model.width**2
        + (held.activation + held.heads * padded) * activation
        + held.score * model.heads * float(tokens) ** 2,
    )


def parameter_bytes(workload: Workload) -> float:
    """Bytes of the parameters that each device keeps, in float32, padded to tiles."""
    return sum(
        FLOAT32 * _tiled(shard_shape(shape, workload.topology.devices))
        for shape in workload.parameter_shapes
    )


def _tiled(shape: tuple[int, ...]) -> int:
    """Entries of an array with its last two axes padded to tiles, for the order of axes that pads
    the least.
    """
    if len(shape) < 2:
        return math.prod(shape)
    rows, columns = TILE

    def padded(row: int, column: int) -> int:
        others = math.prod(size for axis, size in enumerate(shape) if axis not in (row, column))
        return others * -(-shape[row] // rows) * rows * -(-shape[column] // columns) * columns

    axes = range(len(shape))
    return min(padded(row, column) for row in axes for column in axes if row != column)


def paper_layer(
    backbone: str,
    batch: float,
    sequence: float,
    width: float,
    heads: float,
    block: float,
    chunk: float,
) -> tuple[float, float]:
    """Most bytes of a layer's activations in bfloat16, of attention and of the feedforward network
    (arXiv 2310.01889, table 1).

    Args:
        backbone: "dense" (the paper's vanilla), "memory_efficient", "blockwise" or "ring".
        batch: sequences.
        sequence: tokens of each.
        width: entries of an activation.
        heads: of attention.
        block: tokens of a sequence that a device of the ring holds.
        chunk: tokens that memory-efficient attention takes at a time.

    Returns:
        (attention, feedforward). The memory of a rolled, rematerialised model is many times that,
        see `estimate`.
    """
    whole, once = batch * sequence * width, 2 * batch * sequence * width
    return {
        "dense": (2 * batch * heads * sequence**2, 8 * whole),
        "memory_efficient": (once + 4 * batch * chunk * width, 8 * whole),
        "blockwise": (once, once),
        "ring": (6 * batch * block * width, 2 * batch * block * width),
    }[backbone]
