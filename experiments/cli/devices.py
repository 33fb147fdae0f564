"""Chooses the devices of a process before jax is imported.

They are virtual ones of the CPU, or one accelerator for each job of a sweep.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from agentic_transformer.errors import raise_config_error

_DEVICES = {"CUDA_VISIBLE_DEVICES": "nvidia[0-9]*", "TPU_VISIBLE_CHIPS": "accel[0-9]*"}
# libtpu needs these in a process that has one chip to itself.
_ONE_CHIP = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
_POLL_SECONDS = 1.0
_COUNT_FLAG = "--xla_force_host_platform_device_count"


def accelerators() -> dict[str, str]:
    """Returns the accelerators that may be used: by name, the variable that shows jax one alone."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return {}
    found = {}
    for variable, pattern in _DEVICES.items():
        present = [re.sub(r"\D", "", path.name) for path in sorted(Path("/dev").glob(pattern))]
        names = os.environ[variable].split(",") if variable in os.environ else present
        found |= {name.strip(): variable for name in names if name.strip() not in ("", "-1")}
    return found


@cache
def claim_accelerator() -> None:
    """Takes an accelerator for this process alone, if there are any; waits for a free one."""
    folder = Path(tempfile.gettempdir()) / f"accelerators-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while devices := accelerators():
        for name, variable in devices.items():
            handle = os.open(folder / name, os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                continue
            # The handle stays open, and the accelerator taken, until the process ends.
            os.environ |= {variable: name} | (_ONE_CHIP if variable.startswith("TPU") else {})
            return
        time.sleep(_POLL_SECONDS)


def make_virtual_devices(command: Any) -> None:
    """Asks XLA for `mesh.virtual_devices` devices of the CPU, beside the flags of XLA_FLAGS.

    Raises:
        UserError: XLA_FLAGS asks for another number.
    """
    count = getattr(getattr(command, "mesh", None), "virtual_devices", 0)
    if not count:
        return
    for flag in _xla_flags():
        if flag.startswith(_COUNT_FLAG) and flag != f"{_COUNT_FLAG}={count}":
            raise_config_error(
                f"mesh.virtual_devices={count}: the environment's XLA_FLAGS says {flag}",
                "the same number in both, or one of them alone",
            )
    use_virtual_devices(count)


def use_virtual_devices(count: int, *flags: str) -> None:
    """Asks XLA for devices of the CPU, unless another platform is named.

    Args:
        count: how many.
        *flags: more flags of XLA. All follow those of XLA_FLAGS, and override them.
    """
    asked = (f"{_COUNT_FLAG}={count}", *flags)
    kept = [flag for flag in _xla_flags() if flag not in asked]
    os.environ["XLA_FLAGS"] = " ".join([*kept, *asked])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _xla_flags() -> list[str]:
    return os.environ.get("XLA_FLAGS", "").split()
