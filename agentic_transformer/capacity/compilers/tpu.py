"""Compiles for TPUs by their own compiler, which refuses what does not fit."""

from __future__ import annotations

import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from agentic_transformer.capacity.hardware import Topology
from agentic_transformer.capacity.outcome import Refused

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSED = re.compile(
    r"Ran out of memory (?:on|in memory space) hbm\b(.*)", re.IGNORECASE | re.DOTALL
)
_AMOUNT = re.compile(r"\b([\d.]+)([KMGT]?)\b")


def missing() -> str:
    """Returns what has to be installed, as one line; empty if nothing."""
    if importlib.util.find_spec("libtpu") is not None:
        return ""
    return "compiling for TPUs needs their compiler, but no TPU: make install EXTRAS=tpu"


def describe(topology: Topology) -> list[jax.Device]:
    """Returns the devices of a topology, as the compiler describes them."""
    # Without these variables libtpu asks the machine that it is on, which is no TPU, and waits.
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    }
    os.environ |= quiet | {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    return topologies.get_topology_desc(topology.name, "tpu").devices


def compile_lowered(
    lowered: jax.stages.Lowered, topology: Topology, *, fast: bool
) -> jax.stages.Compiled | Refused:
    """Compiles a lowered program.

    Args:
        lowered: the program.
        topology: not needed: the compiler knows the memory.
        fast: whether the compiler should spend little time on the speed of the program. Its memory
            hardly changes, but its schedule is not the one that would run.
    """
    try:
        return lowered.compile({"exec_time_optimization_effort": -1.0} if fast else None)
    except jax.errors.JaxRuntimeError as error:
        refused = parse_refusal(str(error))
        if refused is None:
            raise
        return refused


def parse_refusal(message: str) -> Refused | None:
    """Reads the sizes in a compiler's error about a device's memory.

    The messages are "RESOURCE_EXHAUSTED: ... Ran out of memory on HBM, the total memory required
    for HLO temporaries (97.06G) exceeds available HBM (95.74G).", or "RESOURCE_EXHAUSTED: ... Ran
    out of memory in memory space hbm. Used 20.1G of 15.75G hbm."

    Returns:
        The sizes, or None if the error is about something else, such as a core's VMEM.
    """
    found = _REFUSED.search(message)
    amounts = [
        float(number) * _UNITS[unit]
        for number, unit in _AMOUNT.findall(found[1] if found else "")[:2]
    ]
    if "RESOURCE_EXHAUSTED" not in message or len(amounts) < 2:
        return None
    return Refused(*map(round, amounts))
