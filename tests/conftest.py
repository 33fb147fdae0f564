"""Chooses the devices of all tests: those of the CPU, unless TEST_PLATFORM=gpu.

On a machine with a GPU, `make test` is then what it is elsewhere. `TEST_PLATFORM=gpu pytest tests`
runs the tests that hold on a GPU as well, and no others: the folders HOLD_ON_A_GPU. Their bounds
follow from the type and from a precision that they name, not from the device.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from experiments.cli import compilation_cache
from tests.seeds import SEED

PLATFORM = os.environ.get("TEST_PLATFORM", "cpu")
HOLD_ON_A_GPU = ("ring", "models")

# The processes of one run of the tests share what they compile, as the runs of a user do. The first
# process of the run makes the folder, and removes it at its end; the others inherit its name.
if compilation_cache.VARIABLE not in os.environ:
    compiled = TemporaryDirectory(prefix="compiled-")
    os.environ[compilation_cache.VARIABLE] = compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# What tests connect to is on this machine, where no proxy leads.
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]
if PLATFORM == "cpu":
    os.environ["JAX_PLATFORMS"] = "cpu"
elif PLATFORM == "gpu":
    os.environ["JAX_PLATFORMS"] = "cuda,cpu"
    # Several processes of tests share a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Some tests compare bits of two programs: a kernel must not be chosen by a measurement.
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_gpu_exclude_nondeterministic_ops=true --xla_gpu_autotune_level=0"
    )
else:
    raise pytest.UsageError(f"TEST_PLATFORM={PLATFORM}: allowed: cpu, gpu")


@pytest.fixture(scope="module")
def less_optimized():
    """Lets XLA optimize programs less, for files that do little but compile many of them.

    What a program computes stays the same but for rounding. Tests of exactness, and processes that
    tests start, do without: their programs are compiled as a user's are.
    """
    import jax  # after this file has chosen the devices

    jax.config.update("jax_disable_most_optimizations", PLATFORM == "cpu")
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def pytest_report_header():
    return [
        f"TEST_PLATFORM={PLATFORM} (cpu or gpu)",
        f"TEST_SEED={SEED} (the random data of numeric tests; any number will do)",
    ]


def pytest_collection_modifyitems(config, items):
    # Files with slow tests come first: two processes share out files in this order, and quick ones
    # keep both at work until the end.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if PLATFORM == "cpu":
        return
    here = Path(__file__).parent
    kept, others = [], []
    for item in items:
        holds = item.path.relative_to(here).parts[0] in HOLD_ON_A_GPU
        (kept if holds else others).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=others)
