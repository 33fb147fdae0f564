"""Estimates the bytes on each device of a train step without a compiler.

The state is counted: 4 bytes for a parameter, 4 for its gradient, 8 for AdamW's two means. A TPU
pads each array to tiles. What is kept of every layer for the backward pass is counted too. The rest
is at its largest in the backward pass of one layer. It is a multiple of the size of an activation
and of a layer's weights, and the multiples are fitted to compiled steps of each platform
(`experiments/results/plan`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from agentic_transformer.capacity.estimate_settings import KERNELED
from agentic_transformer.capacity.workload import Workload
from agentic_transformer.training.fsdp import shard_shape

BF16, FLOAT32 = 2, 4
TILE = (8, 128)
"""Rows and columns of float32 in a tile of a TPU. The last two axes of an array are padded to whole
tiles, in the order of axes that the compiler chooses."""


class LayerCoefficients(NamedTuple):
    """Holds fitted coefficients of the peak memory of the backward pass of one layer.

    Attributes:
        weights: bytes for each entry of a width x width matrix: the layer's 12 gathered matrices,
            their gradients, and float32 sums of some.
        ring: bytes for each token and entry of the width: keys and values, the arriving ones, and
            the float32 gradients of both.
        activation: bytes for each token and entry of the width: all other activations.
        heads: bytes for each token and entry of the width: arrays whose last axis is a head's
            entries, which a TPU pads to whole tiles.
        score: bytes for each head and pair of tokens.
    """

    weights: float
    ring: float
    activation: float
    heads: float
    score: float = 0


COEFFICIENTS = {
    "tpu": {
        "ring": LayerCoefficients(weights=39, ring=24, activation=5, heads=15),
        "blockwise": LayerCoefficients(weights=55, ring=0, activation=6, heads=22),
        "memory_efficient": LayerCoefficients(weights=35, ring=0, activation=20, heads=16),
        "dense": LayerCoefficients(weights=6, ring=0, activation=19, heads=0, score=6),
    },
    "gpu": {
        "ring": LayerCoefficients(weights=88, ring=24, activation=43, heads=0),
        "blockwise": LayerCoefficients(weights=139, ring=0, activation=27.6, heads=0),
        "memory_efficient": LayerCoefficients(weights=227, ring=0, activation=43, heads=0),
        "dense": LayerCoefficients(weights=0, ring=0, activation=118, heads=0, score=15.2),
    },
}
"""Fitted coefficients by platform and backbone."""


class Estimate(NamedTuple):
    """Holds the estimated bytes on each device, by kind."""

    parameters: float
    optimizer: float
    gradients: float
    checkpoints: float
    """What is kept of all layers for the backward pass."""
    ring: float
    """Keys and values that travel and arrive, and their gradients."""
    working: float
    """One layer's gathered weights, their gradients, and all other activations."""

    @property
    def state(self) -> float:
        """Returns the bytes that do not depend on the context."""
        return self.parameters + self.optimizer + self.gradients

    @property
    def peak(self) -> float:
        """Returns the sum over all kinds."""
        return sum(self)


def estimate(workload: Workload) -> Estimate:
    """Estimates the memory of a train step whose state is sharded over all devices.

    The estimate is for the model with the settings of `estimate_settings.assumed_settings`.
    """
    model, tokens = workload.model, workload.tokens
    # A ring of one device is blockwise attention: nothing travels.
    attention = "blockwise" if (model.attention, workload.ring) == ("ring", 1) else model.attention
    held = COEFFICIENTS[workload.topology.platform][attention]
    activation = float(tokens) * model.width  # entries of an array (tokens, width)
    parameters = parameter_bytes(workload)
    return Estimate(
        parameters=parameters,
        optimizer=2 * parameters,
        gradients=parameters,
        checkpoints=model.layers * kept_bytes(workload),
        ring=held.ring * activation,
        working=held.weights * model.width**2
        + (held.activation + held.heads * _head_padding(workload)) * activation
        + held.score * model.heads * float(tokens) ** 2,
    )


def fits(workload: Workload) -> bool:
    """Returns whether a train step fits by the estimate."""
    return estimate(workload).peak <= workload.topology.memory


def kept_bytes(workload: Workload) -> float:
    """Returns the bytes of a layer that are kept for the backward pass.

    They are the layer's input. If a kernel computes attention, `model.remat=block` also keeps the
    output of attention and the log-sum-exp of each token and head.
    """
    model, tokens = workload.model, float(workload.tokens)
    inputs = BF16 * tokens * model.width
    if model.remat == "full" or model.attention not in KERNELED:
        return inputs
    return 2 * inputs + FLOAT32 * tokens * model.heads


def parameter_bytes(workload: Workload) -> float:
    """Returns the bytes of a device's share of the parameters, in float32."""
    entries = _tiled if workload.topology.platform == "tpu" else math.prod
    devices = workload.topology.devices
    return sum(
        FLOAT32 * entries(shard_shape(shape, devices)) for shape in workload.parameter_shapes
    )


def _head_padding(workload: Workload) -> float:
    """Returns the factor by which padding to tiles enlarges arrays whose last axis is a head's."""
    head = workload.model.width // workload.model.heads
    columns = TILE[1]
    return -(-head // columns) * columns / head if workload.topology.platform == "tpu" else 1


def _tiled(shape: tuple[int, ...]) -> int:
    """Returns the entries of an array padded to a TPU's tiles, in the order that pads least."""
    if len(shape) < 2:
        return math.prod(shape)
    rows, columns = TILE

    def padded(row: int, column: int) -> int:
        others = math.prod(size for axis, size in enumerate(shape) if axis not in (row, column))
        return others * -(-shape[row] // rows) * rows * -(-shape[column] // columns) * columns

    axes = range(len(shape))
    return min(padded(row, column) for row in axes for column in axes if row != column)
