"""The random data of numeric tests follow from one seed, which the environment's TEST_SEED sets (0
if it does not)."""

import os

import numpy as np

SEED = int(os.environ.get("TEST_SEED", "0"))


def rng(*case: int) -> np.random.Generator:
    """Returns the generator of one test's data; `case` tells data of one seed apart."""
    return np.random.default_rng([SEED, *case])
