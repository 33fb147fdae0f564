"""Computes the overlap condition: when the transfers of a ring hide behind its computation.

Source: arXiv 2310.01889, section 3 and table 2. At every step of the ring a device attends from its
`c` queries to `c` keys while it sends `c` keys and values on. Let `d` be the width of all heads,
`F` the device's rate in FLOP/s and `B` that of the link in byte/s, one way. The forward step
computes for `4 d c^2 / F` seconds and sends, in 16 bits, for `4 d c / B` seconds. So the transfer
is hidden if `c >= F / B`.

The block size is not chosen: it is the device's share of the sequence, `c = sequence / ring size`.
All devices have the same, since `to_layout` pads the sequence to a multiple of `2 * ring size`.
Within a block a kernel may use chunks, also the same on every device.
"""

from __future__ import annotations

from typing import NamedTuple

MATRIX_FLOPS = 2
"""FLOPs of a multiply and add."""


class Chip(NamedTuple):
    """Describes a device and the link to its neighbour on the ring.

    Attributes:
        name: of chip and link.
        flops: peak dense FLOP/s in bfloat16.
        link: byte/s to the next device, one way.
        source: where the figures are from.
    """

    name: str
    flops: float
    link: float
    source: str


CHIPS = (
    Chip("A100 NVLink", 312e12, 300e9, "paper"),
    Chip("A100 InfiniBand", 312e12, 12.5e9, "paper"),
    Chip("TPU v3", 123e12, 112e9, "paper"),
    Chip("TPU v4", 275e12, 268e9, "paper"),
    Chip("TPU v5e", 196e12, 186e9, "paper"),
)
"""Rows of the paper's table 2, which counts all links of a TPU. `capacity/devices` has others."""


def minimal_block(
    chip: Chip, *, backward: bool = False, causal: bool = False, group: int = 1
) -> float:
    """Returns the least number of tokens per device at which transfers hide behind computation.

    Keys and values travel in 16 bits, their gradients in float32. The last transfer, which no step
    follows, is left out. The defaults are the assumptions of the paper's table 2, under which this
    is `F / B`.

    Args:
        chip: the device and its link.
        backward: the backward pass, with 5 matrix products a step instead of 2, in which the
            gradients of keys and values travel too.
        causal: half of the scores are computed at every step (zigzag order).
        group: query heads for each key head. A larger group leaves the products as they are, and
            makes keys and values smaller.

    Returns:
        Tokens.
    """
    products = 5 if backward else 2
    flops_per_width = MATRIX_FLOPS * products * (0.5 if causal else 1.0)  # times c^2
    bytes_per_width = 2 * (2 + (4 if backward else 0)) / group  # times c
    return bytes_per_width / flops_per_width * chip.flops / chip.link


def paper_minimal_sequence(chip: Chip) -> float:
    """Returns the paper's minimal sequence per device: six blocks, which a device holds at once."""
    return 6 * minimal_block(chip)
