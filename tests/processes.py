"""Prepares the environment of processes that tests start."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(**more):
    """Returns this process's environment, from which our packages can be imported.

    XLA_FLAGS that a user set for all tests hold, such as the instructions that XLA may use. Only
    the number of devices is left out, which a process sets for itself (mesh.virtual_devices).
    """
    flags = [
        flag
        for flag in os.environ.get("XLA_FLAGS", "").split()
        if "host_platform_device_count" not in flag
    ]
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": " ".join(flags)} | more
