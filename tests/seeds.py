"""Draws the random data of numeric tests from one seed, TEST_SEED of the environment or 0."""

import os

import numpy as np

SEED = int(os.environ.get("TEST_SEED", "0"))


def rng(*case: int) -> np.random.Generator:
    """Returns the generator of one test's data; another `case` gives other data."""
    return np.random.default_rng([SEED, *case])
