"""Random streams that never coincide, however small and equal the seeds of different purposes are."""

from __future__ import annotations

import zlib

import numpy as np


def sequence(purpose: str, *seeds: int) -> np.random.SeedSequence:
    """Entropy of one purpose.

    NumPy pads entropy with zeros, so that [0], [0, 0] and [0, 0, 0] seed the same generator, and
    two purposes with a common seed would draw the same numbers. The purpose's name, as a large
    first word, keeps them apart, as does the number of seeds.

    Args:
        purpose: what is drawn, in words.
        seeds: what the draw depends on.
    """
    return np.random.SeedSequence([zlib.crc32(purpose.encode()), len(seeds), *seeds])


def stream(purpose: str, *seeds: int) -> np.random.Generator:
    """A generator of its own for one purpose and its seeds."""
    return np.random.default_rng(sequence(purpose, *seeds))
