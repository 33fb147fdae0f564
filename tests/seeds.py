"""Draws the random data of numeric tests from one seed, the environment's TEST_SEED (0 if unset)."""

import os

import numpy as np

SEED = int(os.environ.get("TEST_SEED", "0"))


def rng(*case: int) -> np.random.Generator:
    """Returns the generator of one test's data; another `case` gives other data."""
    return np.random.default_rng([SEED, *case])
