"""Gives the options of XLA with which the transfers of a ring hide behind its computation."""

from __future__ import annotations

from agentic_transformer.ring.mesh import GPUS


def compiler_options(platform: str) -> dict[str, int]:
    """Returns options for the outermost `jax.jit` around a ring.

    XLA for GPUs lets one permute run beside computation at a time, and merges small permutes into
    one. In the backward pass keys, values and the gradients of both travel. Where they are too
    large to merge, XLA completes some of the permutes before the step's computation starts. So all
    of them are merged, at the cost of memory: gradients of keys and values are held twice while
    they travel.

    Args:
        platform: of the devices, such as "cpu", "gpu" or "tpu".
    """
    if platform not in GPUS:
        return {}
    return {"xla_gpu_collective_permute_combine_threshold_bytes": 2**62}
