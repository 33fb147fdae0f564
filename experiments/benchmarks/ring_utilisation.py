"""Measures a layer's training step: the ring at N times the context of one device.

It is compared with blockwise on that device.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks.cpu_timing import cpu_seconds, product_rate
from experiments.benchmarks.ring_layer import on_ring, ring_mesh, shapes, training_step

WIDTH = 512
_SHARE = 4096  # tokens a device
_DEVICES = (2, 4, 8)
_ROUNDS = 2


class Utilisation(NamedTuple):
    """Describes how well a training step uses the matrix product rate, as the paper's table 4.

    Attributes:
        backbone: "blockwise" or "ring".
        devices: devices on the ring.
        tokens: length of the sequence.
        seconds: CPU seconds of a step, the median.
        expected: utilisation expected by the count of FLOPs.
        measured: model FLOP/s over the rate of a matrix product.
    """

    backbone: str
    devices: int
    tokens: int
    seconds: float
    expected: float
    measured: float


def layer_flops(tokens: int) -> tuple[float, float]:
    """Returns the FLOPs of a causal layer's training step: of the model, and done in all.

    The model's FLOPs are three times the forward pass: 24 width^2 a token, and 2 products of
    2 width a visible pair of tokens. What is done includes rematerialisation. Parameters take the
    forward pass, the same once more without its last product, and the gradient. Attention takes the
    forward pass twice, and the 5 products of the gradient.
    """
    parameters, product = 24 * WIDTH**2 * tokens, WIDTH * tokens * (tokens + 1)
    return 3 * (parameters + 2 * product), (3 + 2 / 3) * parameters + (2 * 2 + 5) * product


def utilisations() -> list[Utilisation]:
    """Measures blockwise on one device, and the ring on more, at as many tokens a device.

    The steps are interleaved. What is expected of the ring: the rate at which blockwise does FLOPs,
    rematerialisation included, holds at the longer context.
    """
    cases = [("blockwise", 1), *(("ring", count) for count in _DEVICES)]
    steps = [_step(backbone, count, _SHARE * count) for backbone, count in cases]
    spent = np.array(
        [
            [product_rate(), *(cpu_seconds(step, *arrays) for step, arrays in steps)]
            for _ in range(_ROUNDS)
        ]
    )
    rate, *seconds = np.median(spent, axis=0)
    counts = [layer_flops(_SHARE * count) for _, count in cases]
    blockwise_rate = counts[0][1] / seconds[0] / rate
    return [
        Utilisation(
            backbone,
            count,
            _SHARE * count,
            taken,
            blockwise_rate * model / done,
            model / taken / rate,
        )
        for (backbone, count), (model, done), taken in zip(cases, counts, seconds, strict=True)
    ]


def _step(backbone: str, devices: int, tokens: int):
    """Returns a compiled training step, and its arguments."""
    rng = np.random.default_rng(0)
    mesh = ring_mesh(devices)
    whole = NamedSharding(mesh, PartitionSpec())
    parameters = {
        name: jax.device_put(
            rng.standard_normal(shape).astype(jnp.float32) * shape[0] ** -0.5, whole
        )
        for name, shape in shapes(WIDTH).items()
    }
    x = jax.device_put(rng.standard_normal((1, tokens, WIDTH), np.float32), on_ring(mesh))
    return training_step(mesh, backbone).lower(parameters, x).compile(), (parameters, x)
