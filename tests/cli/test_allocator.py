"""What becomes of freed memory, counted by the pages that the system has to clear for the next
array."""

import os
import platform
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

SCRIPT = """
import resource, sys
import numpy as np
from experiments.cli import allocator
if sys.argv[1:]:
    getattr(allocator, sys.argv[1])()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8 << 20)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(*words, **environment):
    """Page faults of a third array of 64 MB like the two that were freed before it."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    } | environment
    line = [sys.executable, "-c", SCRIPT, *words]
    return int(
        subprocess.run(
            line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_unless_the_user_or_the_caller_wants_it_back():
    as_it_comes = faults()
    assert faults("keep_freed") < 10 < as_it_comes  # huge pages are 32
    assert faults("keep_freed", MALLOC_ARENA_MAX="4") > 10
    assert faults("return_freed") > 10
