"""The environment of processes that tests start."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(**more):
    """Returns this process's environment, by which ours is imported; its XLA_FLAGS hold, but for
    the number of devices.

    A process asks for devices of its own (mesh.virtual_devices); what a user set for all tests, as
    the instructions that XLA may use, reaches it.
    """
    flags = [
        flag
        for flag in os.environ.get("XLA_FLAGS", "").split()
        if "host_platform_device_count" not in flag
    ]
    return os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": " ".join(flags)} | more
