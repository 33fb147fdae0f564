"""Compiles for NVIDIA GPUs by JAX's CUDA plugin, which needs neither a GPU nor a driver.

XLA:GPU accepts what does not fit, so that its peak is compared with the memory here. The workspace
that cuDNN's calls take is known to a GPU alone, and is not in the peak. Matrix products are those
of cuBLAS: on a GPU XLA would time them against Triton's, and take the faster ones.
"""

from __future__ import annotations

import importlib.util

import jax
from jax.experimental import topologies

from agentic_transformer.capacity.hardware import DEVICES, Topology
from agentic_transformer.capacity.outcome import Refused, memory_of

_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")

_OPTIONS = {"xla_gpu_enable_triton_gemm": False}
"""Without a GPU Triton's tiles are a guess, and there are none for some sizes, such as 3200."""


def missing() -> str:
    """Returns what has to be installed, as one line; empty if nothing."""
    if any(importlib.util.find_spec(plugin) for plugin in _PLUGINS):
        return ""
    return (
        "compiling for GPUs needs JAX's CUDA plugin, but no GPU: "
        "make install EXTRAS=cuda12 (or cuda13)"
    )


def describe(topology: Topology) -> list[jax.Device]:
    """Returns the devices of a topology, as the compiler describes them, host by host."""
    config = (DEVICES / f"{topology.machine.device}.txtpb").read_text()
    shape = f"1x{topology.hosts}x{topology.devices // topology.hosts}"  # slices, hosts, devices
    return topologies.get_topology_desc(
        platform="cuda", target_config=config, topology=shape
    ).devices


def compile_lowered(
    lowered: jax.stages.Lowered, topology: Topology, *, fast: bool
) -> jax.stages.Compiled | Refused:
    """Compiles a lowered program, and refuses it if its peak exceeds the memory.

    Args:
        lowered: the program.
        topology: the devices, of which the memory is known.
        fast: makes no difference: there is one effort.
    """
    compiled = lowered.compile(_OPTIONS)
    peak = memory_of(compiled).peak
    return Refused(peak, round(topology.memory)) if peak > topology.memory else compiled
