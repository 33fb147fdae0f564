"""Gives every purpose a random stream of its own, even if seeds are small or equal."""

from __future__ import annotations

import zlib

import numpy as np


def stream(purpose: str, *seeds: int) -> np.random.Generator:
    """Returns a random generator for one purpose and its seeds.

    NumPy pads entropy with zeros: [0], [0, 0] and [0, 0, 0] seed the same generator, and two
    purposes with a common seed would draw the same numbers. The checksum of the purpose's name, a
    large first word, keeps purposes apart. The number of seeds keeps [0] and [0, 0] apart.

    Args:
        purpose: what is drawn, in words.
        seeds: what the draw depends on.
    """
    return np.random.default_rng([zlib.crc32(purpose.encode()), len(seeds), *seeds])
