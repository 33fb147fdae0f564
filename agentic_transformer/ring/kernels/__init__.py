"""Holds the attention kernels, and chooses one."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp

from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.kernels.blocks import Chunks
from agentic_transformer.ring.kernels.cpu import CPUKernel
from agentic_transformer.ring.kernels.cudnn import CUDNN_KERNEL, why_not
from agentic_transformer.ring.kernels.fused import FusedKernel
from agentic_transformer.ring.kernels.reference import ReferenceKernel
from agentic_transformer.ring.kernels.xla import XLAKernel
from agentic_transformer.ring.validation import shown

__all__ = [
    "CPUKernel",
    "Chunks",
    "FusedKernel",
    "Kernel",
    "ReferenceKernel",
    "Selection",
    "XLAKernel",
    "NAMES",
    "choose",
    "select",
]


NAMED = {
    "reference": ReferenceKernel(),
    "xla": XLAKernel(),
    "cpu": CPUKernel(),
    "cudnn": CUDNN_KERNEL,
}
"""Kernels by name."""

NAMES = ("auto", *NAMED)

_logger = logging.getLogger(__name__)


class Selection(NamedTuple):
    """Holds a kernel, and why it was chosen, in one sentence."""

    kernel: Kernel
    reason: str


def choose(
    kernel: Kernel | str | None, platform: str, dtype: Any, head_dim: int, *, static: bool
) -> Selection:
    """Returns the kernel that was asked for, or the fastest.

    Args:
        kernel: a kernel, the name of one, or None or "auto" for the fastest.
        platform: of the devices, such as "cpu", "gpu" or "tpu".
        dtype: of query, key and value.
        head_dim: of query, key and value.
        static: whether all masks are causal or full, without segments.

    Raises:
        ValueError: there is no such kernel, or it cannot compute this.
    """
    if isinstance(kernel, Kernel):
        return Selection(kernel, f"{type(kernel).__name__}: it was asked for.")
    if kernel is None or kernel == "auto":
        return select(platform, dtype, head_dim, static=static)
    if not isinstance(kernel, str) or kernel not in NAMED:
        raise ValueError(
            f"kernel={shown(kernel)} must be a Kernel, such as CPUKernel(), one of {NAMES}, or None"
        )
    if kernel == "cudnn" and (problem := why_not(platform, dtype, head_dim)):
        raise ValueError(f"kernel='cudnn' cannot be used: {problem}; kernel='auto' chooses one")
    return Selection(NAMED[kernel], f"{kernel}: it was asked for.")


def select(platform: str, dtype: Any, head_dim: int, *, static: bool) -> Selection:
    """Returns the fastest kernel for a platform, a dtype and masks.

    Args:
        platform: of the devices, such as "cpu", "gpu" or "tpu".
        dtype: of query, key and value.
        head_dim: of query, key and value.
        static: whether all masks are causal or full, without segments.

    Raises:
        ValueError: the platform is no name.
    """
    if not isinstance(platform, str):
        raise ValueError(f"platform={platform!r} must be a name, such as 'cpu', 'gpu' or 'tpu'")
    name = jnp.dtype(dtype).name
    if platform == "cpu":
        reason = f"CPUKernel for {name} on cpu: its chunks fit a core's cache."
        return Selection(CPUKernel(), reason)
    problem = why_not(platform, dtype, head_dim)
    if not problem and not static:
        problem = "the masks are no plain causal or full ones"
    if not problem:
        return Selection(CUDNN_KERNEL, f"cuDNN for {name} on {platform}: its calls are fused.")
    reason = f"XLAKernel for {name} on {platform}, not cuDNN: {problem}."
    _say_once(reason)
    return Selection(XLAKernel(), reason)


@cache
def _say_once(reason: str) -> None:
    _logger.warning(reason)
