"""Connects the processes of one run, and lets them exchange small values.

jax finds the processes of a Slurm job by itself. By hand, the same command is started once for each
process with `mesh.coordinator=<host>:<port>` (of process 0), `mesh.processes=<count>` and
`mesh.process=<0, 1, ...>`.

jax is imported inside the functions: a command asks `process_info` before it is loaded.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentic_transformer.config import MeshConfig

INITIALIZATION_TIMEOUT = 120  # seconds
# At the end a process waits for the others. If one failed alone, they wait no longer than this.
SHUTDOWN_TIMEOUT = 20  # seconds
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def process_info(config: MeshConfig) -> tuple[int, int]:
    """Returns this process's number and how many there are, without jax."""
    if config.processes > 1:
        return config.process, config.processes
    if all(name in os.environ for name in _SLURM):
        return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    return 0, 1


def initialize(config: MeshConfig) -> None:
    """Connects to the other processes, if there are any.

    Call it before jax looks for devices.
    """
    if process_info(config)[1] == 1:
        return
    import jax  # loads slowly

    given = (
        {}
        if config.processes == 1
        else {"num_processes": config.processes, "process_id": config.process}
    )
    timeouts = {
        "initialization_timeout": INITIALIZATION_TIMEOUT,
        "shutdown_timeout_seconds": SHUTDOWN_TIMEOUT,
    }
    jax.distributed.initialize(config.coordinator, **given, **timeouts)
    # jax.distributed installs a C++ SIGTERM handler; reinstall Python's.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def is_first() -> bool:
    """Returns whether this is process 0, which alone writes logs and checksums."""
    import jax  # loads slowly

    return jax.process_index() == 0


def broadcast(value: int) -> int:
    """Returns in every process the value that process 0 passes."""
    from jax.experimental import multihost_utils  # loads slowly

    return int(multihost_utils.broadcast_one_to_all(value))


def differing_between_processes(values: dict[str, str]) -> list[str]:
    """Returns the names of the values that are not the same in all processes."""
    # These load slowly.
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return []
    sums = np.array([zlib.crc32(value.encode()) for value in values.values()], np.uint32)
    everywhere = multihost_utils.process_allgather(sums)  # (processes, values)
    return [
        name
        for name, same in zip(values, (everywhere == everywhere[0]).all(axis=0), strict=True)
        if not same
    ]


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in any process."""
    # These load slowly.
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def on_host(tree: Any) -> Any:
    """Copies a tree of arrays, which may be sharded over processes, to whole numpy arrays.

    Every process must call this.
    """
    # These load slowly.
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        # Copied: on a CPU numpy would look into memory that the next step donates.
        return jax.tree.map(np.array, jax.device_get(tree))
    return multihost_utils.process_allgather(tree, tiled=True)


@contextmanager
def first_process_first() -> Iterator[None]:
    """Runs a block in process 0 before the others, which then find the files that it made.

    Raises:
        ValueError: process 0 failed; raised in the other processes.
    """
    if not is_first():
        if not broadcast(True):
            raise ValueError("process 0 failed: what it printed says why")
        yield
        return
    try:
        yield
    except BaseException:  # also `Stopped`: the others wait in their broadcast
        broadcast(False)
        raise
    broadcast(True)
