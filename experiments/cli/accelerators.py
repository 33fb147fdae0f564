"""One accelerator of the machine for each job of a sweep that the joblib launcher spreads over
processes.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from functools import cache
from pathlib import Path

_DEVICES = {"CUDA_VISIBLE_DEVICES": "nvidia[0-9]*", "TPU_VISIBLE_CHIPS": "accel[0-9]*"}
# What libtpu wants to know of a process that has one chip to itself.
_ONE_CHIP = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
_SECONDS = 1.0  # between looks for a free one


def visible() -> dict[str, str]:
    """Accelerators that may be used: each one's name, and the variable that shows it alone; empty
    where there is only a CPU.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return {}
    found = {}
    for variable, pattern in _DEVICES.items():
        present = [re.sub(r"\D", "", path.name) for path in sorted(Path("/dev").glob(pattern))]
        names = os.environ[variable].split(",") if variable in os.environ else present
        found |= {name.strip(): variable for name in names if name.strip() not in ("", "-1")}
    return found


@cache
def claim() -> None:
    """Takes an accelerator for this process and shows jax no other; waits for a free one.

    To be called before jax is there.
    """
    devices = visible()
    folder = Path(tempfile.gettempdir()) / f"accelerators-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while devices:
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
        time.sleep(_SECONDS)
