"""Lists the keyword arguments that several functions of attention share.

Their meaning stands once, in the docstring of `api.attention`.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, TypedDict

import jax

from agentic_transformer.ring.kernels import Kernel


class MaskOptions(TypedDict, total=False):
    """Holds the arguments that define a mask, and the precision of products."""

    causal: bool
    segment_ids: jax.Array | None
    window: int | None
    length: jax.Array | int | None
    precision: str | None


class KernelOptions(MaskOptions, total=False):
    """Holds the arguments of a mask, and the kernel."""

    kernel: Kernel | str | None


class DenseOptions(MaskOptions, total=False):
    """Holds masks, and the order of the sequence: that of a ring of `ring_size` devices."""

    layout: str
    ring_size: int


class MeshOptions(KernelOptions, total=False):
    """Holds masks, the kernel, and how arrays lie on the mesh."""

    axis: str
    batch_axis: str | tuple[str, ...] | None
    layout: str


class ShardOptions(TypedDict, total=False):
    """Holds what a device's part of ring attention needs besides its arrays."""

    causal: bool
    layout: str
    window: int | None
    all_gather: bool


def check_options(function: str, options: dict[str, Any], allowed: type) -> None:
    """Raises TypeError, as Python does, for a keyword argument that a function does not take.

    Args:
        function: name of the function.
        options: what it was given.
        allowed: a TypedDict of what it takes.
    """
    names = sorted(allowed.__optional_keys__)
    for name in options:
        if name not in names:
            nearest = get_close_matches(name, names, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")
