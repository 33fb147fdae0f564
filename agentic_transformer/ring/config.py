"""Defines the static configuration of a ring."""

from __future__ import annotations

from typing import NamedTuple

from agentic_transformer.ring.kernels import Kernel


class RingConfig(NamedTuple):
    """Holds the static (trace-time) configuration of a ring.

    Attributes:
        axis: mesh axis of the ring; None: one device, no collectives.
        ring_size: number of devices on the ring.
        kernel: attention of a device's queries to one block of keys after another; None for
            backbones that need none.
        causal: whether a query sees only keys up to its own position.
        layout: order of the sequence, "contiguous" or "zigzag".
        window: number of keys that a query sees; None: no limit.
        all_gather: every device collects all keys and values first, instead of passing them on.
        precision: of float32 matrix products, see `ring/precision.py`.
    """

    axis: str | None
    ring_size: int
    kernel: Kernel | None
    causal: bool = True
    layout: str = "zigzag"
    window: int | None = None
    all_gather: bool = False
    precision: str = "highest"
