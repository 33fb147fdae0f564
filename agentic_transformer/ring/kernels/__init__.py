"""Holds the attention kernels, and chooses one."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp

from agentic_transformer.ring.kernels import cudnn, splash
from agentic_transformer.ring.kernels.base import Kernel
from agentic_transformer.ring.kernels.blocks import Chunks
from agentic_transformer.ring.kernels.cpu import CPUKernel
from agentic_transformer.ring.kernels.fused import FusedKernel
from agentic_transformer.ring.kernels.reference import ReferenceKernel
from agentic_transformer.ring.kernels.splash import SplashKernel
from agentic_transformer.ring.kernels.xla import XLAKernel
from agentic_transformer.ring.validation import shown

__all__ = [
    "CPUKernel",
    "Chunks",
    "FusedKernel",
    "Kernel",
    "ReferenceKernel",
    "Selection",
    "SplashKernel",
    "XLAKernel",
    "NAMES",
    "select",
    "why_not",
]


NAMED = {
    "reference": ReferenceKernel(),
    "xla": XLAKernel(),
    "cpu": CPUKernel(),
    "cudnn": cudnn.CUDNN_KERNEL,
    "splash": splash.SPLASH_KERNEL,
}
"""Kernels by name."""

_WHY_NOT = {"cudnn": cudnn.why_not, "splash": splash.why_not}
"""Functions `(platform, dtype, head_dim) -> why it cannot be called` of fused kernels."""

NAMES = ("auto", *NAMED)

_logger = logging.getLogger(__name__)


class Selection(NamedTuple):
    """Holds a kernel, and why it was chosen, in one sentence."""

    kernel: Kernel
    reason: str


def select(
    kernel: Kernel | str | None,
    platform: str,
    dtype: Any,
    head_dim: int,
    *,
    static: bool,
    segments: bool = False,
    window: bool = False,
) -> Selection:
    """Returns the kernel that was asked for, or the fastest.

    Args:
        kernel: a kernel, the name of one, or None or "auto" for the fastest.
        platform: of the devices, such as "cpu", "gpu" or "tpu".
        dtype: of query, key and value.
        head_dim: of query, key and value.
        static: whether all masks are causal or full, apart from segments and a window.
        segments: whether there are segments.
        window: whether there is a window on one device.

    Raises:
        ValueError: there is no such kernel, it cannot compute this, or the platform is no string.
    """
    if isinstance(kernel, Kernel):
        return Selection(kernel, f"{type(kernel).__name__}: it was asked for.")
    if kernel is not None and not (isinstance(kernel, str) and kernel in NAMES):
        raise ValueError(
            f"kernel={shown(kernel)} must be a Kernel, such as CPUKernel(), one of {NAMES}, or None"
        )
    if kernel not in (None, "auto"):
        if problem := why_not(kernel, platform, dtype, head_dim):
            raise ValueError(
                f"kernel={kernel!r} cannot be used: {problem}; kernel='auto' chooses one"
            )
        return Selection(NAMED[kernel], f"{kernel}: it was asked for.")
    if not isinstance(platform, str):
        raise ValueError(f"platform={platform!r} must be a name, such as 'cpu', 'gpu' or 'tpu'")
    name = jnp.dtype(dtype).name
    if platform == "cpu":
        reason = f"CPUKernel for {name} on cpu: its chunks fit a core's cache."
        return Selection(CPUKernel(), reason)
    fused = "splash" if platform == "tpu" else "cudnn"
    kernel = NAMED[fused]
    problem = _WHY_NOT[fused](platform, dtype, head_dim)
    if not problem and not static:
        problem = "not all masks are causal or full"
    if not problem and segments and not kernel.supports_segments:
        problem = "it supports no segments"
    if not problem and window and not kernel.supports_windows:
        problem = "it supports no windows"
    if not problem:
        words = f"{type(kernel).__name__} ({fused}) for {name} on {platform}"
        return Selection(kernel, f"{words}: its calls are fused.")
    reason = f"XLAKernel for {name} on {platform}, not {fused}: {problem}."
    _say_once(reason)
    return Selection(XLAKernel(), reason)


def why_not(kernel: str, platform: str, dtype: Any, head_dim: int) -> str:
    """Says why a named kernel cannot be called; an empty text if it can.

    Args:
        kernel: one of `NAMES`.
        platform: of the devices, such as "cpu", "gpu" or "tpu".
        dtype: of query, key and value.
        head_dim: of query, key and value.
    """
    return _WHY_NOT[kernel](platform, dtype, head_dim) if kernel in _WHY_NOT else ""


@cache
def _say_once(reason: str) -> None:
    _logger.warning(reason)
