"""Holds the attention kernels, and chooses one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.kernels.blocks import Chunks
from agentic_transformer.ring.kernels.cpu import CPUKernel
from agentic_transformer.ring.kernels.reference import ReferenceKernel
from agentic_transformer.ring.kernels.xla import XLAKernel
from agentic_transformer.ring.validation import shown

__all__ = [
    "CPUKernel",
    "Chunks",
    "Kernel",
    "ReferenceKernel",
    "Selection",
    "XLAKernel",
    "check_kernel",
    "select",
]


class Selection(NamedTuple):
    """Holds a kernel, and why it was chosen, in one sentence."""

    kernel: Kernel
    reason: str


def check_kernel(kernel: Any) -> None:
    """Raises ValueError unless this is a kernel, or None."""
    if kernel is not None and not isinstance(kernel, Kernel):
        raise ValueError(f"kernel={shown(kernel)} must be a Kernel, such as CPUKernel(), or None")


def select(platform: str, dtype: Any) -> Selection:
    """Returns the fastest kernel for a platform and a dtype.

    Args:
        platform: of the devices, such as "cpu", "gpu" or "tpu".
        dtype: of query, key and value.

    Raises:
        ValueError: the platform is no name.
    """
    if not isinstance(platform, str):
        raise ValueError(f"platform={platform!r} must be a name, such as 'cpu', 'gpu' or 'tpu'")
    name = jnp.dtype(dtype).name
    if platform == "cpu":
        return Selection(
            CPUKernel(), f"CPUKernel for {name} on cpu: its chunks fit a core's cache."
        )
    reason = f"XLAKernel for {name} on {platform}: no fused kernel is there for it."
    return Selection(XLAKernel(), reason)
