"""Several processes of one program: who they are, and the few things they do together besides
computing.

Slurm's processes are found by jax itself. By hand, the same command is started once for each
process with `mesh.coordinator=<host>:<port>` (of process 0), `mesh.processes=<count>` and
`mesh.process=<0, 1, ...>`.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from agentic_transformer.config import MeshConfig

SECONDS_TO_MEET = 120
# a process that failed alone waits for the others, which may wait for it, no longer than this
SECONDS_TO_PART = 20
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def process_info(config: MeshConfig) -> tuple[int, int]:
    """This process's number and how many there are; jax is not imported."""
    if config.processes > 1:
        return config.process, config.processes
    if all(name in os.environ for name in _SLURM):
        return int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    return 0, 1


def initialize(config: MeshConfig) -> None:
    """Meets the other processes, if there are any; to be called before jax looks for devices."""
    if process_info(config)[1] == 1:
        return
    import jax

    given = (
        {}
        if config.processes == 1
        else {"num_processes": config.processes, "process_id": config.process}
    )
    patience = {
        "initialization_timeout": SECONDS_TO_MEET,
        "shutdown_timeout_seconds": SECONDS_TO_PART,
    }
    jax.distributed.initialize(config.coordinator, **given, **patience)
    # jax now catches SIGTERM below Python, for a service that is not used here; without this line
    # the signal would be lost.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def is_first() -> bool:
    """Whether this is the process that writes what only one may write."""
    import jax

    return jax.process_index() == 0


def agree(value: int) -> int:
    """The value of process 0, in every process."""
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(value))


def differing(values: dict[str, str]) -> list[str]:
    """Names of those values that are not the same in all processes."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return []
    sums = np.array([zlib.crc32(value.encode()) for value in values.values()], np.uint32)
    everywhere = multihost_utils.process_allgather(sums)  # (processes, values)
    return [
        name
        for name, alike in zip(values, (everywhere == everywhere[0]).all(axis=0), strict=True)
        if not alike
    ]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return (
        flag
        if jax.process_count() == 1
        else bool(multihost_utils.process_allgather(np.array(flag)).any())
    )


@contextmanager
def first_process_first() -> Iterator[None]:
    """Process 0 goes through the block before the others do, who then find the files that it made.

    Raises:
        ValueError: in the others, where process 0 failed.
    """
    if not is_first():
        if not agree(True):
            raise ValueError("process 0 failed: what it printed says why")
        yield
        return
    try:
        yield
    except Exception:
        agree(False)
        raise
    agree(True)
